"""Draws the gains of rules over uniform weights, and these against what they cost the domains."""
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trials.evidence_results import DEFAULT, TARGETS, TOKENS, Result, cost, gain, rules_of

COLOURS = {
    "dga": "#0072b2",
    "dga_uniform": "#d55e00",
    "importance": "#117733",
    "matched": "#aa3377",
    "doge": "#b8860b",
    "odm": "#888888",
    "proportional": "#44aa99",
    "unimax": "#332288",
    "paper": "#cc6677",
}
"""Of each rule but uniform weights, the same in all figures."""
_LEGEND_COLUMNS = 5  # more do not fit into a figure's width


def draw(results: Sequence[Result], output: Path) -> None:
    """Write the figure as SVG: a panel for each number of tokens that there are results of."""
    tokens = [each for each in TOKENS if rules_of(results, each)]
    _reproducible()
    figure = Figure(figsize=(4.6 * len(tokens), 3.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(tokens), squeeze=False)[0]
    rules = list(dict.fromkeys(rule for each in tokens for rule in rules_of(results, each)))
    for panel, kept in zip(panels, tokens, strict=True):
        _draw_gains(panel, results, kept, rules)
    _save(figure, panels[0], output)


def draw_bargain(results: Sequence[Result], output: Path) -> None:
    """Write the figure of gains on the targets against costs on the domains, as SVG.

    With all tokens, a panel for each target: what is further up gains more, what is further left
    costs less, so that a rule is dominated by those above it to the left. DGA with other settings
    is there too, in small.
    """
    _reproducible()
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(2, 3, squeeze=False).flatten().tolist()
    rules = rules_of(results, "all")
    for panel, target in zip(panels, TARGETS, strict=True):
        panel.axvline(0.0, color="#444444", linewidth=0.8)
        panel.axhline(0.0, color="#444444", linewidth=0.8)
        for rule in rules:
            settings = {r.setting for r in results if (r.rule, r.target) == (rule, target)}
            for setting in sorted(settings):
                gained = gain(results, rule, "all", target, setting)
                paid = cost(results, rule, target, setting)
                if gained is not None and paid is not None:
                    panel.errorbar(
                        [paid.mean],
                        [gained.mean],
                        xerr=[paid.standard_error or 0.0],
                        yerr=[gained.standard_error or 0.0],
                        fmt="o" if rule == DEFAULT else "s",
                        markersize=3 if setting else 6 if rule == DEFAULT else 4,
                        color=COLOURS[rule],
                        label="" if setting else rule,
                    )
        panel.set(title=target, xlabel="cost on the domains", ylabel="gain on the target")
    _save(figure, panels[0], output)


def _save(figure: Figure, panel: Axes, output: Path) -> None:
    """Write a figure with the legend of a panel, in which every rule is."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False
    )
    figure.savefig(output, metadata={"Date": None})


def _reproducible() -> None:
    """Without a salt, every run writes other names; without text, letters are paths."""
    mpl.rcParams.update({"svg.hashsalt": "evidence", "svg.fonttype": "none"})


def _draw_gains(panel: Axes, results: Sequence[Result], tokens: str, rules: list[str]) -> None:
    panel.axvline(0.0, color="#444444", linewidth=0.8)
    for nth, rule in enumerate(rules):
        found = {t: g for t in TARGETS if (g := gain(results, rule, tokens, t)) is not None}
        shift = 0.6 * (nth + 0.5) / len(rules) - 0.3
        panel.errorbar(
            [each.mean for each in found.values()],
            [TARGETS.index(target) + shift for target in found],
            xerr=[each.standard_error or 0.0 for each in found.values()],
            fmt="o" if rule == DEFAULT else "s",
            markersize=6 if rule == DEFAULT else 4,
            color=COLOURS[rule],
            label=rule,
        )
    panel.set_xscale("symlog", linthresh=0.1)
    panel.set_yticks(range(len(TARGETS)), TARGETS)
    panel.invert_yaxis()
    panel.set(
        title=f"{tokens} tokens of each domain", xlabel="loss at uniform weights minus the rule's"
    )
