"""`megadga law fit`, `law predict` and `law optimise`: losses as functions of fixed mixtures."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray
from megadga.commands.command import Command
from megadga.config.loading import load_config
from megadga.config.yaml_source import dump_line, parse
from megadga.console import count, non_negative_int, parse_positive
from megadga.data.files import atomic_write
from megadga.errors import ConfigError
from megadga.laws.assessing import interval
from megadga.laws.coverage import find_extrapolation
from megadga.laws.exponential import DELTA
from megadga.laws.file import LawFile, read_law, write_law
from megadga.laws.fit import KINDS, LawRequest, fit_law
from megadga.laws.observations import GENERAL, objective_of
from megadga.laws.optimising import Limits, best_mixture
from megadga.laws.target import Target, open_target
from megadga.mixers.weights import ROUNDING
from megadga.report.runs import read_run

_FIT_EPILOG = """\
examples:
  megadga law fit runs/sweep/m*-seed*/ --output law.json
  megadga law fit runs/sweep/m*-seed*/ --output law.json --law exponential
  megadga law fit runs/sweep/m*-seed*/ --output law.json --tokens 20000000000
  megadga law fit runs/8m/m*/ runs/30m/m*/ runs/125m/m*/ --output law.json --parameters 750000000

power        L_i(r) = c_i + 1 / sum_j b_ij r_j^g_i for each set i and the weights r of the domains:
             the first per cent of a domain does more than the next (additive law of arXiv
             2507.09404, with one exponent a set, at most 1)
exponential  L_i(r) = c_i + k_i exp(sum_j t_ij r_j) (data mixing laws, arXiv 2403.16952)
linear, lightgbm  regression (RegMix, arXiv 2407.01492); lightgbm takes 40 runs or more

Runs are those of a sweep, or any at a fixed mixture. Losses are taken after the last number of
tokens that all were evaluated at; with --tokens beyond that, from a law of each run's own steps,
e^c + (D0/D)^alpha, for which they are evaluated at least three times after their first quarter.
With --parameters, from a law of sizes over runs of at least three sizes at the same mixtures.

Printed, and written, are each set's error on mixtures that were held out, in turn, beside the
error of predicting the mean, and Spearman's rank correlation of predicted and observed losses,
with an interval from 5 to 95 % over mixtures drawn with replacement. Where mixtures were trained
with several seeds, noise is how much their losses differ: no law predicts better than that.
"""
_PREDICT_EPILOG = """\
example:
  megadga law predict law.json --weights web=0.5 code=0.3 books=0.2

Intervals are from 5 to 95 % of laws fitted to runs drawn with replacement. They do not cover what
the form of the law gets wrong: the error on held-out mixtures, beside them, does. A mixture that
is no average of those of the runs is said to extrapolate.
"""
_OPTIMISE_EPILOG = """\
examples:
  megadga law optimise law.json --objective general --output mixture.yaml
  megadga law optimise law.json --objective specific=qa --for run.yaml --max-epochs 4 \\
      --prior proportional --max-distance 0.3 --output mixture.yaml

--for names the run that the mixture is for: its tokens and its domains' sizes say how often a
domain would be read, for --max-epochs, and what proportional or temperature mean for --prior.
The file has the `mixing` section of a run at this mixture; what `--set` takes is printed, too.
Away from the runs' mixtures a law promises more than it knows: --max-distance, in total variation
from the prior, keeps it near.
"""


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="a run's output folder")
    add("--output", type=Path, required=True, metavar="LAW", help="JSON file of the law")
    add("--law", choices=KINDS, default="power", help="what is fitted (power)")
    add("--tokens", type=count, metavar="T", help="tokens of training that losses are after")
    add(
        "--parameters",
        type=count,
        metavar="N",
        help="predict a model of so many parameters, without the embedding",
    )
    add(
        "--huber",
        type=parse_positive,
        default=DELTA,
        metavar="NATS",
        help=f"residual from which a run counts linearly ({DELTA}; 0.01 to 0.08 are usual)",
    )
    add("--starts", type=count, default=16, metavar="N", help="of each fit (16)")
    add(
        "--folds",
        type=non_negative_int,
        default=8,
        metavar="N",
        help="held out in turn; 0: none (8)",
    )
    add("--replicates", type=non_negative_int, default=50, metavar="N", help="for intervals (50)")
    add(
        "--seed",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="of starts, folds, replicates",
    )


def _share(text: str) -> float:
    value = parse_positive(text)
    if value > 1.0:
        raise argparse.ArgumentTypeError(f"expected a number of at most 1, found {text!r}")
    return value


def _fit(options: argparse.Namespace) -> int:
    request = LawRequest(
        kind=options.law,
        tokens=options.tokens,
        parameters=options.parameters,
        delta=options.huber,
        starts=options.starts,
        folds=options.folds,
        replicates=options.replicates,
        seed=options.seed,
    )
    found = fit_law([read_run(folder) for folder in options.runs], request)
    write_law(options.output, found)
    print("\n".join(_fit_lines(found)))
    print(f"{options.output}: written")
    return 0


def _fit_lines(law: LawFile) -> Iterator[str]:
    mixtures = len(np.unique(law.mixtures.round(9), axis=0))
    yield (
        f"{law.law.type} law of {len(law.sets)} sets over {len(law.domains)} domains, "
        f"fitted to {len(law.runs)} runs at {mixtures} mixtures, after {law.tokens:,} tokens"
    )
    if law.tokens > law.observed_tokens:
        yield f"of which runs were trained on {law.observed_tokens:,}: laws of steps say the rest"
    if law.parameters is not None:
        yield f"of a model of {law.parameters:,} parameters, by a law of sizes"
    if law.held_out:
        headers = (
            "held-out mixtures",
            "mean abs. error",
            "of the mean",
            "rank corr.",
            "5-95 %",
            "noise",
        )
        rows = [
            (
                each.set,
                f"{each.mean_absolute_error:.4f}",
                f"{each.constant_error:.4f}",
                f"{each.rank_correlation:.3f}",
                "-" if each.rank_interval is None else "{:.3f}-{:.3f}".format(*each.rank_interval),
                "-" if each.noise is None else f"{each.noise:.4f}",
            )
            for each in law.held_out
        ]
        yield ""
        yield tabulate(rows, headers=headers, disable_numparse=True, colalign=_aligned(6))
        yield ""
    unknown = law.unknowns
    if unknown is not None and mixtures <= unknown:
        yield (
            f"warning: {mixtures} mixtures for {unknown} unknowns of each set: the law fits them "
            "whatever they are"
        )


def _aligned(number: int) -> tuple[str, ...]:
    return ("left", *("right" for _ in range(number - 1)))


def _add_law(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("law", type=Path, metavar="LAW", help="by `megadga law fit`")


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    _add_law(parser)
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        required=True,
        metavar="DOMAIN=W",
        help="of each domain, with a sum of 1; those that are not named have 0",
    )
    add("--json", action="store_true", help="print JSON")


def _predict(options: argparse.Namespace) -> int:
    law = read_law(options.law)
    mixture = _mixture(options.weights, law.domains)
    predicted = _predictions(law, mixture)
    notes = list(find_extrapolation(mixture, law.mixtures, law.domains))
    if options.json:
        print(json.dumps({"losses": predicted, "notes": notes}, indent=2))
    else:
        print(_prediction_table(predicted))
        print("\n".join(notes), end="\n" if notes else "")
    return 0


def _mixture(words: Sequence[str], domains: Sequence[str]) -> FloatArray:
    given: dict[str, float] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        if not equals or not 0.0 <= weight <= 1.0 or name in given:
            raise ConfigError(
                f"--weights: expected DOMAIN=W once, with W in [0, 1], found {word!r}"
            )
        if name not in domains:
            raise ConfigError(f"--weights: expected one of {', '.join(domains)}, found {name!r}")
        given[name] = weight
    weights = np.array([given.get(name, 0.0) for name in domains])
    if abs(weights.sum() - 1.0) > ROUNDING:
        raise ConfigError(f"--weights: expected a sum of 1, found {weights.sum():g}")
    return weights / weights.sum()


def _predictions(law: LawFile, mixture: FloatArray) -> dict[str, dict[str, float | None]]:
    """Return each set's loss, its interval, and the error on held-out mixtures."""
    names = [each.set for each in law.held_out] or list(law.sets)
    objectives = np.stack([objective_of(name, law.sets) for name in names])
    losses = objectives @ law.fitted().predict(mixture[None])[0]
    resampled = [objectives @ each.predict(mixture[None])[0] for each in law.resampled()]
    low, high = interval(np.stack(resampled)) if resampled else (None, None)
    errors = {each.set: each.mean_absolute_error for each in law.held_out}
    return {
        name: {
            "loss": float(losses[index]),
            "low": None if low is None else float(low[index]),
            "high": None if high is None else float(high[index]),
            "held_out_error": errors.get(name),
        }
        for index, name in enumerate(names)
    }


def _prediction_table(predicted: Mapping[str, Mapping[str, float | None]]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    keys = ("loss", "low", "high", "held_out_error")
    headers = ("set", "loss", "from", "to", "held-out error")
    rows = [(name, *(shown(each[key]) for key in keys)) for name, each in predicted.items()]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=_aligned(5))


def _add_optimise_options(parser: argparse.ArgumentParser) -> None:
    _add_law(parser)
    add = parser.add_argument
    add(
        "--objective",
        default=GENERAL,
        metavar="SET",
        help="what is to be low: general, specific=NAME or domain=NAME (general)",
    )
    add("--for", dest="target", type=Path, metavar="RUN", help="YAML file of the run it is for")
    add("--max-epochs", type=parse_positive, metavar="E", help="passes over a domain at most")
    add(
        "--prior",
        default="uniform",
        metavar="WEIGHTS",
        help="uniform, proportional, or {domain: weight} as YAML (uniform)",
    )
    add("--max-distance", type=_share, metavar="D", help="from the prior, in total variation")
    add("--seed", type=non_negative_int, default=0, metavar="N", help="of regressions' candidates")
    add("--output", type=Path, metavar="FILE", help="YAML with the mixture")


def _optimise(options: argparse.Namespace) -> int:
    law = read_law(options.law)
    objective = objective_of(options.objective, law.sets)
    target = None
    if options.target is not None:
        target = open_target(load_config(options.target), law.domains)
    limits = _limits(options, law, target)
    best = best_mixture(law.fitted(), objective, limits, seed=options.seed)
    resampled = [
        best_mixture(each, objective, limits, seed=options.seed) for each in law.resampled()
    ]
    print(_weights_table(law, best, resampled, limits, target))
    print()
    print("\n".join(_gains(law, options.objective, best, limits)))
    mixing = {"type": "static", "weights": _rounded(law.domains, best)}
    print(f"--set 'mixing={dump_line(mixing).strip()}'")
    if options.output is not None:
        _write_mixture(options.output, mixing, options)
        print(f"{options.output}: written")
    return 0


def _limits(options: argparse.Namespace, law: LawFile, target: Target | None) -> Limits:
    size = len(law.domains)
    if options.max_epochs is not None and target is None:
        raise ConfigError("--max-epochs: expected --for RUN beside it, found none")
    prior: Any = parse(options.prior, lambda _: "--prior").values
    if target is None:
        if prior != "uniform":
            raise ConfigError(
                f"--prior: expected uniform, or --for RUN beside it, found {options.prior}"
            )
        weights, caps = np.full(size, 1.0 / size), np.ones(size)
    else:
        weights, caps = target.weights(prior, "--prior"), target.caps(options.max_epochs)
    distance = 1.0 if options.max_distance is None else options.max_distance
    return Limits(caps, weights, distance)


def _weights_table(
    law: LawFile,
    best: FloatArray,
    resampled: Sequence[FloatArray],
    limits: Limits,
    target: Target | None,
) -> str:
    seen = law.mixtures
    columns = {
        "domain": list(law.domains),
        "weight": [f"{each:.3f}" for each in best],
        "in the runs": [f"{a:.3f}-{b:.3f}" for a, b in zip(seen.min(0), seen.max(0), strict=True)],
        "prior": [f"{each:.3f}" for each in limits.prior],
    }
    if resampled:
        low, high = interval(np.stack(resampled))
        columns["5-95 %"] = [f"{a:.3f}-{b:.3f}" for a, b in zip(low, high, strict=True)]
    if target is not None:
        columns["epochs"] = [f"{each:.2f}" for each in best * target.epochs_at_one]
    rows = list(zip(*columns.values(), strict=True))
    rows.sort(key=lambda row: -float(row[1]))
    return tabulate(
        rows, headers=list(columns), disable_numparse=True, colalign=_aligned(len(columns))
    )


def _gains(law: LawFile, name: str, best: FloatArray, limits: Limits) -> Iterator[str]:
    """Yield what the law promises of a mixture, against the prior and the best of the runs."""
    objective = objective_of(name, law.sets)
    at_best = _predictions(law, best)[name]
    fitted = law.fitted()
    at_prior = float(fitted.predict(limits.prior[None])[0] @ objective)
    observed = float((law.losses @ objective).min())
    between = "" if at_best["low"] is None else f" ({at_best['low']:.4f} to {at_best['high']:.4f})"
    yield f"{name}: {at_best['loss']:.4f} nats predicted{between}"
    yield f"{name}: {at_prior:.4f} predicted at the prior, {observed:.4f} the lowest of the runs"
    if (error := at_best["held_out_error"]) is not None:
        yield f"{name}: {error:.4f} is the law's mean error on held-out mixtures"
    yield from find_extrapolation(best, law.mixtures, law.domains)


def _rounded(domains: Sequence[str], weights: FloatArray) -> dict[str, float]:
    """Return weights of six digits that sum to 1 as far as these can."""
    return {name: round(float(each), 6) for name, each in zip(domains, weights, strict=True)}


def _write_mixture(path: Path, mixing: Mapping[str, Any], options: argparse.Namespace) -> None:
    text = (
        f"# By `megadga law optimise {options.law} --objective {options.objective}`: "
        f"the section of a run.\nmixing: {dump_line(dict(mixing)).strip()}\n"
    )
    try:
        with atomic_write(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file that can be written, found {error.strerror}"
        ) from None


FIT = Command(
    "Fit validation losses as functions of fixed mixtures to the runs of a sweep.",
    _add_fit_options,
    _fit,
    epilog=_FIT_EPILOG,
)
PREDICT = Command(
    "Predict the validation losses of a mixture, and say how far they can be trusted.",
    _add_predict_options,
    _predict,
    epilog=_PREDICT_EPILOG,
)
OPTIMISE = Command(
    "Find the fixed mixture of the lowest predicted loss, within limits.",
    _add_optimise_options,
    _optimise,
    epilog=_OPTIMISE_EPILOG,
)
