"""Plot what step size, interval and EMA do to DGA, and print it as Markdown tables."""
# pyright: reportUnknownMemberType=false

import argparse
import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from megadga.console import run_program
from trials.convex import make_bed
from trials.sensitivity import EMAS, INTERVALS, NEAR, Outcome, study, table

SIGNALS = (math.inf, 0.25)
COLOURS = dict(zip(EMAS, ("#0072b2", "#44aa99", "#b8860b", "#d55e00"), strict=True))


def draw(outcomes: list[Outcome], output: Path) -> None:
    """Write the final excess against eta: a row a signal-to-noise, a column an interval."""
    # Without a salt, every run writes other names; without text, letters are paths.
    mpl.rcParams.update({"svg.hashsalt": "sensitivity", "svg.fonttype": "none"})
    figure = Figure(figsize=(10.0, 5.0), layout="constrained")
    grid = figure.subplots(len(SIGNALS), len(INTERVALS), sharex=True, sharey=True)
    for row, signal in zip(grid, SIGNALS, strict=True):
        for axes, interval in zip(row, INTERVALS, strict=True):
            here = [e for e in outcomes if (e.signal, e.interval) == (signal, interval)]
            for ema in EMAS:
                line = [e for e in here if e.ema == ema]
                sizes, excess = [e.step_size for e in line], [100.0 * e.excess for e in line]
                axes.loglog(sizes, excess, "o-", color=COLOURS[ema], label=f"β = {ema:g}", ms=3)
            axes.axhline(100.0 * NEAR, color="#cccccc", linewidth=0.8, zorder=0)
            noise = "exact" if math.isinf(signal) else f"signal-to-noise {signal:g}"
            axes.set_title(f"T_r = {interval}, {noise}", fontsize="small")
    figure.supxlabel("η", fontsize="small")
    figure.supylabel("target loss above the best, %", fontsize="small")
    lines, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside right center", frameon=False, fontsize="small")
    figure.savefig(output, metadata={"Date": None})


def main() -> None:
    """Parse the command line, run every setting, write the plot and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/sensitivity.svg"))
    parser.add_argument("--steps", type=int, default=2000, help="of each run; default: 2000")
    args = parser.parse_args()
    outcomes = list(study(make_bed(), SIGNALS, args.steps))
    draw(outcomes, args.output)
    for signal in SIGNALS:
        print("exact alignments" if math.isinf(signal) else f"signal-to-noise {signal:g}", "\n")
        print("\n".join(table([each for each in outcomes if each.signal == signal])), "\n")


if __name__ == "__main__":
    run_program(main)
