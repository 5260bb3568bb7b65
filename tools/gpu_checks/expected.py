"""What the measurements are compared with."""

from collections.abc import Callable, Iterable, Sequence

from .setting import Row

DIRECTIONAL = "directional"
RANK_16 = "directional low rank"
OURS = "plain training"
RIVAL = "hugging face"


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """Return each expectation with its worst measurement; None where there is none."""
    exact = [row for row in rows if row["check"] == "exactness"]
    products = [float(row["error"]) for row in rows if row["check"] == "inner products"]
    equal = [float(row["equal"]) for row in rows if row["check"] == "no trace"]
    resumed = [float(row["equal"]) for row in rows if row["check"] == "resuming"]
    speeds = [row for row in rows if row["check"] == "speed" and "error" not in row]
    dga = [row for row in speeds if row["variant"] == "dga" and row["mfu"] is not None]
    costs = [row for row in rows if row["check"] == "probe"]
    return [
        _at_most("error of inner products, of the sum of |l r|", 1e-6, products),
        _at_most("error in fp32, of |g||v|", 1e-5, _errors(exact, "fp32")),
        _at_most("error in bf16, of |g||v|", 5e-2, _errors(exact, "bf16")),
        _at_least("no trace: losses and parameters equal to the bit", 1.0, equal),
        _at_least("resumed: losses, weights and evaluations equal to the bit", 1.0, resumed),
        _at_least("utilisation with DGA, 350m", 0.45, _best(dga, "350m")),
        _at_least("utilisation with DGA, 1b", 0.50, _best(dga, "1b")),
        _at_least("tokens per second against Hugging Face's loop", 1.15, _against_rival(speeds)),
        _at_most("cost of a directional sequence", 1.0, _ratios(costs, DIRECTIONAL)),
        _at_most("cost of a rank-16 sequence", 0.75, _ratios(costs, RANK_16)),
    ]


def _at_most(name: str, limit: float, found: Iterable[float]) -> Row:
    return _verdict(name, "at most", limit, max(found, default=None), lambda x: x <= limit)


def _at_least(name: str, limit: float, found: Iterable[float]) -> Row:
    return _verdict(name, "at least", limit, min(found, default=None), lambda x: x >= limit)


def _verdict(
    name: str, relation: str, limit: float, found: float | None, met: Callable[[float], bool]
) -> Row:
    return {
        "what": name,
        "relation": relation,
        "limit": limit,
        "found": found,
        "met": None if found is None else met(found),
    }


def _errors(rows: Sequence[Row], precision: str) -> list[float]:
    return [float(row["error"]) for row in rows if row["precision"] == precision]


def _best(rows: Sequence[Row], model: str) -> list[float]:
    """Return the best of a model's settings: one of them is the one to train with."""
    found = [row["mfu"] for row in rows if row["model"] == model]
    return [max(found)] if found else []


def _against_rival(rows: Sequence[Row]) -> list[float]:
    """Return our plain step's speed over the rival's, neither or both compiled."""
    rates: dict[tuple[object, ...], dict[str, float]] = {}
    for row in rows:
        key = row["model"], row["sequence_length"], row["stage"], row["compiled"]
        rates.setdefault(key, {})[row["variant"]] = row["tokens_per_s"]
    measured = [rate for rate in rates.values() if {OURS, RIVAL} <= rate.keys()]
    return [rate[OURS] / rate[RIVAL] for rate in measured]


def _ratios(rows: Sequence[Row], probe: str) -> list[float]:
    return [row["ratio"] for row in rows if row["probe"] == probe]
