"""Fit laws of mixtures to the losses that two papers publish, and print how well they predict.

RegMix (arXiv 2407.01492; github.com/sail-sg/regmix): 512 mixtures of 17 domains, models of 1M
parameters, judged on 256 other mixtures. Data mixing laws (arXiv 2403.16952;
github.com/yegcjs/mixinglaws): 26 mixtures of 5 domains, models of 70M parameters after 22,000
steps, judged on each mixture held out in turn. Clone both; nothing is trained.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray
from megadga.console import run_program, tool_parser
from megadga.laws.assessing import Fit, cross_validate, rank_correlation
from megadga.laws.exponential import fit_exponential
from megadga.laws.observations import DOMAIN, GENERAL, Observations
from megadga.laws.power import fit_power
from megadga.laws.regression import fit_boosted, fit_linear

EPILOG = """\
example:
  git clone https://github.com/sail-sg/regmix; git clone https://github.com/yegcjs/mixinglaws
  python tools/fit_published.py --regmix regmix --mixing-laws mixinglaws
"""
LAWS: Mapping[str, Fit] = {
    "linear": fit_linear,
    "lightgbm": fit_boosted,
    "exponential": fit_exponential,
    "power": fit_power,
}
NUMBERS = (512, 128, 64, 32)
"""First mixtures of RegMix's that laws are fitted to."""
STEP = 22_000
FOLDS = 8
SETS = 22


def main() -> None:
    """Parse the command line, fit, and print a Markdown table."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--regmix", type=Path, required=True, metavar="FOLDER", help="a clone")
    add("--mixing-laws", type=Path, required=True, metavar="FOLDER", help="a clone")
    args = parser.parse_args()
    rows = [
        *_regmix(args.regmix / "data"),
        *_mixing_laws(read_mixing_laws(args.mixing_laws / "data" / "5Mix")),
    ]
    headers = ("runs", "law", "rank correlation", "mean absolute error", "of predicting the mean")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


def _regmix(data: Path) -> Iterator[tuple[str, str, float, float, float]]:
    """Yield how well each law predicts the loss on Pile-CC."""
    weights, losses = (
        read_regmix(data, "train", "mixture"),
        read_regmix(data, "train", "pile_loss"),
    )
    of_others, observed = (
        read_regmix(data, "test", "mixture"),
        read_regmix(data, "test", "pile_loss"),
    )
    for number in NUMBERS:
        mean = losses[:number].mean()
        for name, fit in LAWS.items():
            if name == "lightgbm" and number < 512:
                continue
            law = fit(weights[:number], losses[:number])
            found = law.predict(of_others)
            yield (
                f"RegMix, {number} mixtures",
                name,
                rank_correlation(found[:, 0], observed[:, 0]),
                float(np.abs(found - observed).mean()),
                float(np.abs(mean - observed).mean()),
            )


def read_regmix(data: Path, split: str, kind: str) -> FloatArray:
    """Return the weights of a split's mixtures, or its losses on Pile-CC, by their number."""
    path = data / f"{split}_{kind}_1m.csv"
    names = path.read_text().partition("\n")[0].split(",")
    numbers = np.genfromtxt(path, delimiter=",", skip_header=1)
    numbers = numbers[np.argsort(numbers[:, 0])]
    if kind == "mixture":
        weights = numbers[:, 1:]
        return weights / weights.sum(axis=1, keepdims=True)  # they are rounded to thousandths
    return numbers[:, [names.index("metric/the_pile_pile_cc_val_loss")]]


def read_mixing_laws(data: Path) -> Observations:
    """Return the losses of the runs that have all validation sets at ``STEP``."""
    losses: dict[str, dict[str, float]] = {}
    for line in (data / "70M.txt").read_text().splitlines():
        run, validation, loss = line.split()
        mixture, step = run.rstrip("/").split("/")[-2:]
        if int(step) == STEP:
            ratio = mixture.partition("-")[2]
            losses.setdefault(ratio, {})[Path(validation).name] = float(loss)
    known = {ratio: by_set for ratio, by_set in losses.items() if len(by_set) == SETS}
    sets = sorted(next(iter(known.values())))
    weights = np.array([[float(part) for part in ratio.split("-")] for ratio in known])
    return Observations(
        runs=tuple(known),
        domains=tuple(map(str, range(weights.shape[1]))),
        sets=tuple(f"{DOMAIN}{name}" for name in sets),
        weights=weights / weights.sum(axis=1, keepdims=True),
        losses=np.array([[by_set[name] for name in sets] for by_set in known.values()]),
    )


def _mixing_laws(observations: Observations) -> Iterator[tuple[str, str, float, float, float]]:
    """Yield how well laws of each validation set predict the mean over all."""
    for name in ("linear", "exponential", "power"):
        errors = cross_validate(observations, LAWS[name], folds=FOLDS, seed=0)
        (error,) = (each for each in errors if each.set == GENERAL)
        yield (
            f"data mixing laws, {len(observations.runs)} mixtures",
            name,
            error.rank_correlation,
            error.mean_absolute_error,
            error.constant_error,
        )


if __name__ == "__main__":
    run_program(main)
