"""Plot how close each rule comes to a known best mixture."""
# pyright: reportUnknownMemberType=false

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from megadga.console import run_program
from megadga.mixers.base import Scheduler
from megadga.mixers.dga import Dga
from megadga.mixers.doge import Doge
from megadga.mixers.doremi import Doremi
from megadga.mixers.grape import Grape
from megadga.mixers.odm import Odm
from megadga.mixers.safeguards import total_variation
from megadga.mixers.static import Static, uniform_weights
from trials.convex import make_bed, train

BED = make_bed()
UNIFORM = uniform_weights(BED.best.size)
GRAPE = Grape(UNIFORM, uniform_weights(2), step_size=0.2, task_step_size=0.2)
RULES: dict[str, tuple[Scheduler, str, str]] = {
    "uniform": (Static(UNIFORM), "#888888", "-"),
    "importance, wrong histogram": (Static(np.roll(BED.best, 1)), "#222222", ":"),
    "dga": (Dga(UNIFORM, step_size=0.2), "#0072b2", "-"),
    "dga, ema 0.1": (Dga(UNIFORM, step_size=0.2, ema=0.1), "#6699cc", "--"),
    "doge for the target": (Doge(UNIFORM, step_size=0.2, target="specific"), "#117733", "-"),
    "doge": (Doge(UNIFORM, step_size=0.2), "#44aa99", "--"),
    "doremi": (Doremi(UNIFORM, step_size=0.05), "#aa3377", "-"),
    "grape, two targets": (GRAPE, "#b8860b", "-"),
    "odm": (Odm(UNIFORM), "#d55e00", "-"),
}


def main() -> None:
    """Parse the command line, run every rule, and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/mixers.svg"))
    args = parser.parse_args()
    # Without a salt, every run writes other names; without text, letters are paths.
    mpl.rcParams.update({"svg.hashsalt": "mixers", "svg.fonttype": "none"})
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    above, away = figure.subplots(1, 2)
    for name, (scheduler, colour, style) in RULES.items():
        trace = train(BED, scheduler)
        excess = 100.0 * (trace.target_losses[:, 0] / BED.targets.floors[0] - 1.0)
        distance = [total_variation(weights, BED.best) for weights in trace.weights]
        above.loglog(trace.steps, excess, style, color=colour, label=name)
        away.semilogx(trace.steps, distance, style, color=colour)
    above.axhline(5.0, color="#cccccc", linewidth=0.8, zorder=0)
    above.set(xlabel="step", ylabel="target loss above the best, %", ylim=(1e-2, 1e3))
    away.set(xlabel="step", ylabel="total variation from the best mixture", ylim=(0.0, 1.0))
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    figure.savefig(args.output, metadata={"Date": None})


if __name__ == "__main__":
    run_program(main)
