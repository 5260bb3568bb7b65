"""What the runs of the experiment `targets` came to: records in JSON, and tables of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from megadga.errors import ConfigError
from megadga.report.records import read_metrics
from trials.agreement import markdown_table

TARGETS = (
    "pubmedqa",
    "black_python",
    "wikipedia_prose",
    "hott_book",
    "licenses",
    "detective_fiction",
)
"""Specific sets that were looked at while defaults were chosen."""
HELD_BACK = ("mmlu_humanities", "mmlu_other", "mmlu_social_sciences", "mmlu_stem")
"""Specific sets that were not, but for `repeat_decay`: by runs with few tokens."""
KEPT = {"20k": 20_000, "60k": 60_000, "200k": 200_000}
"""Tokens that are kept of each domain, by name."""
TOKENS = (*KEPT, "all")
BASELINE = "uniform"
DEFAULT = "dga"
_SETTLED = 0.1
"""Part of a run in which updates are more frequent, which observed overheads leave out."""


T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """A finished run's losses on one target.

    Attributes:
        rule: Name of its file in ``configs/evidence/targets``.
        tokens: Kept of each domain, one of `TOKENS`.
        target: One of `TARGETS` or `HELD_BACK`.
        seed: Of model, batches and probes.
        losses: On the target's validation split by optimizer step, nats per token.
        general: Mean loss over the domains' validation splits at the end; None: they have none.
        epochs: Of the most repeated domain at the end; None if there were no updates.
        predicted_overhead: Of the run's later updates, a share of training; None without updates.
        observed_overhead: The same, measured: seconds for updates per second of training after the
            first tenth of the run; None without updates.
        setting: What is not as in the rule's file, as ``step_size 6``; empty: nothing.
    """

    rule: str
    tokens: str
    target: str
    seed: int
    losses: Mapping[int, float]
    general: float | None
    epochs: float | None
    predicted_overhead: float | None
    observed_overhead: float | None
    setting: str = ""

    @property
    def end(self) -> float:
        """The loss at the last step."""
        return last_loss(self.losses)

    @property
    def rise(self) -> float:
        """How far the last loss is above the least one, at least 0."""
        return rise(self.losses)


def last_loss(losses: Mapping[int, float]) -> float:
    """Return the loss at the last of some steps."""
    return losses[max(losses)]


def rise(losses: Mapping[int, float]) -> float:
    """Return how far the last loss is above the least one, at least 0."""
    return last_loss(losses) - min(losses.values())


_RESULTS = TypeAdapter(list[Result])


def read_results(
    metrics: Path, *, rule: str, tokens: str, seed: int, setting: str = ""
) -> Iterator[Result]:
    """Yield the results of a run, one for each specific set that it was evaluated on.

    Raises:
        ConfigError: If the file cannot be read or holds no evaluation.
    """
    if not (evaluations := read_metrics(metrics).of("evaluation")):
        raise ConfigError(f"{metrics}: expected an evaluation, found none")
    updates = read_metrics(metrics).of("update")
    last = evaluations[-1]
    for target in last["specific"]:
        yield Result(
            rule=rule,
            tokens=tokens,
            target=target,
            seed=seed,
            losses={each["step"]: round(each["specific"][target], 4) for each in evaluations},
            general=None if last["general"] is None else round(last["general"], 4),
            epochs=round(max(updates[-1]["epochs"].values()), 2) if updates else None,
            **_overheads(updates, last["step"]),
            setting=setting,
        )


def _overheads(updates: Sequence[Mapping[str, Any]], steps: int) -> dict[str, float | None]:
    """Return what updates cost after the first tenth of the run, predicted and observed."""
    later = [u for u in updates if u["step"] > _SETTLED * steps and u.get("observed_overhead")]
    if not later:
        return {"predicted_overhead": None, "observed_overhead": None}
    seconds = sum(each["probe_s"] for each in later)
    training = sum(each["probe_s"] / each["observed_overhead"] for each in later)
    return {
        "predicted_overhead": round(later[-1]["predicted_overhead"], 4),
        "observed_overhead": round(seconds / training, 4),
    }


def write_record(path: Path, results: Sequence[Result]) -> None:
    """Write results as JSON, a line for each, in an order that depends on nothing else."""
    ordered = sorted(results, key=lambda r: (r.tokens, r.target, r.rule, r.setting, r.seed))
    write_list(path, [asdict(each) for each in ordered])


def read_record(path: Path) -> list[Result]:
    """Return the results in a file.

    Raises:
        ConfigError: If it is not one that `write_record` wrote.
    """
    return read_list(path, _RESULTS)


def write_list(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write results as JSON, a line for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")


def read_list(path: Path, adapter: TypeAdapter[list[T]]) -> list[T]:
    """Return the results in a file.

    Raises:
        ConfigError: If it is not one that `write_list` wrote.
    """
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
    except OSError as error:
        reason = str(error)
    raise ConfigError(f"{path}: expected results of runs, found {reason}")


@dataclass(frozen=True)
class Gain:
    """By how much a rule's last loss is below that at uniform weights, or above (`cost`).

    Attributes:
        mean: Over the seeds, nats per token.
        standard_error: Of the mean; None for a single seed.
        seeds: How many.
    """

    mean: float
    standard_error: float | None
    seeds: int

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return f"{self.mean:+.3f}{error}"


def gain(
    results: Sequence[Result], rule: str, tokens: str, target: str, setting: str = ""
) -> Gain | None:
    """Return a rule's gain on the seeds that it and uniform weights were trained with, if any."""
    cell = [each for each in results if (each.tokens, each.target) == (tokens, target)]
    uniform = {each.seed: each.end for each in cell if each.rule == BASELINE}
    ends = {each.seed: each.end for each in cell if (each.rule, each.setting) == (rule, setting)}
    return mean_over_seeds([uniform[seed] - ends[seed] for seed in ends.keys() & uniform.keys()])


def mean_over_seeds(found: Sequence[float]) -> Gain | None:
    """Return the mean of one number a seed; None without any."""
    if not found:
        return None
    error = stdev(found) / len(found) ** 0.5 if len(found) > 1 else None
    return Gain(mean(found), error, len(found))


def cost(results: Sequence[Result], rule: str, target: str, setting: str = "") -> Gain | None:
    """Return how far a rule ends above uniform weights on the domains, with all tokens.

    By their mean validation loss, on the seeds that both were trained with; None without any.
    """
    cell = [
        e for e in results if (e.tokens, e.target) == ("all", target) and e.general is not None
    ]
    general = {(e.rule, e.setting, e.seed): e.general for e in cell if e.general is not None}
    paid = [
        loss - general[BASELINE, "", seed]
        for (of_rule, of_setting, seed), loss in general.items()
        if (of_rule, of_setting) == (rule, setting) and (BASELINE, "", seed) in general
    ]
    return mean_over_seeds(paid)


def rules_of(results: Sequence[Result], tokens: str) -> list[str]:
    """Return the rules with results at a number of tokens, but uniform weights, DGA's first."""
    found = {each.rule for each in results if each.tokens == tokens} - {BASELINE}
    return sorted(found, key=lambda rule: (rule != DEFAULT, rule))


def gain_table(results: Sequence[Result], tokens: str, targets: Sequence[str] = TARGETS) -> str:
    """Return a table in Markdown, a line a target: the loss, and each rule's gain over uniform."""
    results = [each for each in _as_in_files(results) if each.target in targets]
    rules = rules_of(results, tokens)
    rows: list[list[str]] = []
    for target in targets:
        cell = [each for each in results if (each.tokens, each.target) == (tokens, target)]
        ends = [each.end for each in cell if each.rule == BASELINE]
        if not ends:
            continue
        gains = [gain(results, rule, tokens, target) for rule in rules]
        rises = [each.rise for each in cell if each.rule == DEFAULT]
        rows.append(
            [
                f"`{target}`",
                f"{mean(ends):.3f}",
                *("" if each is None else str(each) for each in gains),
                f"{max(rises):.3f}" if rises else "",
            ]
        )
    rise = f"`{DEFAULT}`: largest rise above its best"
    return markdown_table(("target", BASELINE, *(f"`{rule}`" for rule in rules), rise), rows)


def cost_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown, a line a rule with updates: what it costs and repeats.

    The last column makes comparisons those of equal compute: what uniform weights would have
    gained in the time that updates took, at most, by their last two evaluations.
    """
    results = _as_in_files(results)
    rows: list[list[str]] = []
    for tokens in TOKENS:
        for rule in rules_of(results, tokens):
            cell = [each for each in results if (each.tokens, each.rule) == (tokens, rule)]
            predicted = [e.predicted_overhead for e in cell if e.predicted_overhead is not None]
            observed = [e.observed_overhead for e in cell if e.observed_overhead is not None]
            epochs = [e.epochs for e in cell if e.epochs is not None]
            if not observed:
                continue
            share = f"{100 * mean(predicted):.1f} %, {100 * mean(observed):.1f} %"
            uniform = [e for e in results if (e.tokens, e.rule) == (tokens, BASELINE)]
            worth = max((mean(observed) * _last_fall(e.losses) for e in uniform), default=0.0)
            rows.append([f"`{rule}`", tokens, share, f"{max(epochs):.1f}", f"{worth:.4f}"])
    titles = (
        "rule",
        "tokens",
        "overhead predicted, observed",
        "epochs of any domain, at most",
        f"`{BASELINE}` in that time",
    )
    return markdown_table(titles, rows)


def _last_fall(losses: Mapping[int, float]) -> float:
    """Return by how much a loss would fall in as many steps again as the run had, as it last did.

    0 with a single evaluation.
    """
    *_, before, last = (min(losses), *sorted(losses))
    return max(losses[before] - losses[last], 0.0) / max(last - before, 1) * last


def general_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown, a line a target: what rules cost on the domains themselves."""
    results = _as_in_files(results)
    rules = rules_of(results, "all")
    rows: list[list[str]] = []
    for target in TARGETS:
        cell = [e for e in results if (e.tokens, e.target) == ("all", target)]
        general = {(e.rule, e.seed): e.general for e in cell if e.general is not None}
        uniform = {seed: loss for (rule, seed), loss in general.items() if rule == BASELINE}
        if not uniform:
            continue
        shown: list[str] = []
        for rule in rules:
            own = [general[rule, seed] for seed in uniform if (rule, seed) in general]
            above = cost(results, rule, target)
            shown.append("" if above is None else f"{mean(own):.3f} ({above.mean:+.3f})")
        rows.append([f"`{target}`", f"{mean(uniform.values()):.3f}", *shown])
    return markdown_table(("target", BASELINE, *(f"`{rule}`" for rule in rules)), rows)


def summary_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown, a line a target: DGA's gain at each number of tokens."""
    tokens = [each for each in TOKENS if DEFAULT in rules_of(results, each)]
    rows: list[list[str]] = []
    for target in TARGETS:
        gains = [gain(results, DEFAULT, each, target) for each in tokens]
        if any(gains):
            rows.append([f"`{target}`", *("" if each is None else str(each) for each in gains)])
    return markdown_table(("target", *(f"{each} tokens" for each in tokens)), rows)


def sensitivity_table(results: Sequence[Result]) -> str:
    """Return a table in Markdown, a line a changed setting of DGA: its gains over uniform.

    The default's are of the same seeds.
    """
    changed = [each for each in results if each.setting]
    trained = {(each.tokens, each.target, each.seed) for each in changed}
    compared = [e for e in results if (e.tokens, e.target, e.seed) in trained]
    cells = list(dict.fromkeys((each.tokens, each.target) for each in changed))
    rows: list[list[str]] = []
    for setting in ("", *sorted({each.setting for each in changed})):
        gains = [gain(compared, DEFAULT, tokens, target, setting) for tokens, target in cells]
        shown = ["" if each is None else str(each) for each in gains]
        rows.append([f"`{setting}`" if setting else "default", *shown])
    return markdown_table(("setting", *(f"`{t}`, {tokens}" for tokens, t in cells)), rows)


def _as_in_files(results: Sequence[Result]) -> list[Result]:
    """Return the results of rules as their files have them."""
    return [each for each in results if not each.setting]
