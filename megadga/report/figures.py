"""What a report shows, as numbers: from runs to layers, for a page and for images alike.

A report has layers, each one quantity of all runs, thinned to what figures need, and figures that
are made of them (``catalogue.py``). ``page.py`` hands both to a browser, ``plots.py`` draws them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.mixers.safeguards import effective_domains
from megadga.report.alignments import ONLY_SET, AlignmentHistory
from megadga.report.catalogue import ALIGNMENT_LAYERS, Figure, all_figures
from megadga.report.colours import style_places
from megadga.report.domains import DomainInfo
from megadga.report.grouping import RunGroup, group_runs, run_names
from megadga.report.runs import RunHistory
from megadga.report.thinning import moving_mean, thin_curves, thin_tables
from megadga.run_folder.domain_log import Series

MOST_POINTS = 1_600
"""Of a curve, over the runs that are averaged: about two for each pixel of a figure's width."""
MOST_CELLS = 400_000
"""Of each quantity by domain, over all runs."""
LEAST_COLUMNS, MOST_COLUMNS = 40, 500
"""Steps of a quantity by domain, whatever the number of domains."""

DOMAINS, BASIS, GROUPS = "domains", "basis", "groups"
"""Spaces: what columns are by."""

GROUPED = "@groups"
"""At the end of a layer's key: over groups of domains."""

Tables = dict[str, list[Series | None]]
"""A series of each run, or None, by the quantity's key."""


@final
@dataclass(frozen=True, eq=False)
class Space:
    """Names that quantities are by: the domains, the basis distributions, or groups of domains.

    Attributes:
        names: ``K`` names, over all runs.
        labels: What is in one, by name, as far as known.
        leading: All indices, those with the largest weight in any run first.
        styles: Place of each one's colour and dashes.
    """

    names: tuple[str, ...]
    labels: Mapping[str, str]
    leading: tuple[int, ...]
    styles: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """One quantity of all runs.

    Attributes:
        runs: A series for each run; None: it has none.
        by: The space of the series' names, and order of their columns; empty: names are their own.
    """

    runs: tuple[Series | None, ...]
    by: str = ""

    @property
    def known(self) -> list[Series]:
        """Of the runs that have it."""
        return [each for each in self.runs if each is not None]


@final
@dataclass(frozen=True, eq=False)
class Report:
    """Everything that a page or images show.

    Attributes:
        runs: The runs.
        names: Of the runs, each different.
        groups: Runs that differ in their seed alone, together; a run without others, alone.
        spaces: By ``DOMAINS``, ``BASIS`` and ``GROUPS``, those that there are.
        layers: By key; ``KEY@groups`` has the same over groups of domains.
        figures: In the order of the page.
    """

    runs: tuple[RunHistory, ...]
    names: tuple[str, ...]
    groups: tuple[RunGroup, ...]
    spaces: Mapping[str, Space]
    layers: Mapping[str, Layer]
    figures: tuple[Figure, ...]

    def is_drawn(self, figure: Figure) -> bool:
        """Return whether any run has something for a figure."""
        if figure.kind == "events":
            return any(event.kind != "start" for run in self.runs for event in run.events)
        return any(self.layers[key].known for key in figure.layers if key in self.layers)


def build_report(runs: Sequence[RunHistory], infos: Sequence[DomainInfo]) -> Report:
    """Return what a report over runs shows, thinned to what figures need.

    Args:
        runs: At least one.
        infos: What the domains of each are.
    """
    groups = group_runs(runs)
    sets = tuple(dict.fromkeys(name for run in runs for name in _set_names(run).values()))
    whole = _tables(runs, sets)
    info = _joined(infos)
    spaces = _spaces(whole, info)
    layers = {key: _thin(series, groups) for key, series in _curves(runs).items()}
    if info.groups:
        summed = _over_groups(whole, info)
        by_group = summed.get("weights", summed["tokens"])
        spaces[GROUPS] = _space(_names_in(by_group), summed, info)
        whole |= {f"{key}{GROUPED}": series for key, series in summed.items()}
    for key, series in whole.items():
        if by := _space_of(series, spaces):
            layers[key] = _thin_by(series, groups, by, spaces[by].names)
    return Report(tuple(runs), run_names(runs), groups, spaces, layers, all_figures(sets))


def _set_names(run: RunHistory) -> dict[str, str]:
    """Return the specific sets' names by those in alignments: a single one is not named there."""
    configured = list(run.config.get("data", {}).get("specific") or {})
    if tuple(run.alignments) == (ONLY_SET,) and len(configured) == 1:
        return {ONLY_SET: str(configured[0])}
    return {name: name for name in run.alignments}


def _curves(runs: Sequence[RunHistory]) -> Tables:
    """Return what is of a run as a whole, by layer."""
    found: Tables = {}
    for run in runs:
        for key, series in _curves_of(run).items():
            shown = np.isfinite(series.values).any()
            found.setdefault(key, []).append(series if shown else None)
    return found


def _curves_of(run: RunHistory) -> dict[str, Series]:
    train, updates = run.train, run.updates
    window = max(1, train.steps.size // 50)
    logged = {
        "loss": train.loss,
        "tokens_per_s": train.tokens_per_s,
        "utilisation": train.flops_utilisation,
        "gradient_norm": train.gradient_norm,
    }
    curves = {"specific": run.specific, "general": run.general}
    for key, values in logged.items():
        curves[key] = _single(key, train.steps, values)
        curves[f"{key}_mean"] = _single(
            f"mean over {window} steps", train.steps, moving_mean(values, window)
        )
    curves["learning_rate"] = _single("learning rate", train.steps, train.learning_rate)
    curves["seconds"] = _time_shares(run, window)
    curves["effective"] = _effective(run)
    observed = updates.observed_overhead
    curves["overhead"] = _single("observed", updates.steps, observed)
    curves["overhead_mean"] = _single("mean so far", updates.steps, _mean_so_far(observed))
    curves["overhead_predicted"] = _single("predicted", updates.steps, updates.predicted_overhead)
    return curves


def _single(name: str, steps: np.ndarray, values: FloatArray) -> Series:
    return Series((name,), steps, values.reshape(-1, 1))


def _mean_so_far(values: FloatArray) -> FloatArray:
    known = np.isfinite(values)
    counts = np.cumsum(known)
    sums = np.cumsum(np.where(known, values, 0.0))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _time_shares(run: RunHistory, window: int) -> Series:
    """Return the shares of a step's time, of means over a window, so that they are readable."""
    kinds = tuple(run.train.seconds)
    if not kinds:
        return Series((), run.train.steps, np.zeros((run.train.steps.size, 0)))
    seconds = moving_mean(np.stack([run.train.seconds[kind] for kind in kinds], axis=1), window)
    total = seconds.sum(axis=1, keepdims=True)
    shares = np.divide(seconds, total, out=np.zeros_like(seconds), where=total > 0.0)
    return Series(kinds, run.train.steps, shares)


def _effective(run: RunHistory) -> Series:
    """Return the effective number of domains: as logged, else of the weights that there are."""
    if np.isfinite(run.updates.effective_domains).any():
        return _single("logged", run.updates.steps, run.updates.effective_domains)
    weights = run.weights.weights
    return _single(
        "of the weights", run.weights.steps, np.array([effective_domains(row) for row in weights])
    )


def _tables(runs: Sequence[RunHistory], sets: Sequence[str]) -> Tables:
    """Return what is by domain, or by basis distribution, by layer."""
    found: Tables = {}
    for number, run in enumerate(runs):
        tokens = np.cumsum(np.nan_to_num(run.sequences.values), axis=0)
        length = float(run.config["model"]["sequence_length"])
        tables = {
            "weights": Series(run.weights.names, run.weights.steps, run.weights.weights),
            "validation": run.domains,
            "trained": run.trained,
            "epochs": run.epochs,
            "tokens": Series(run.sequences.names, run.sequences.steps, length * tokens),
        }
        names = _set_names(run)
        for name, history in run.alignments.items():
            place = sets.index(names[name])
            values = (history.alignments, history.standard_errors, _cosines(run, name, history))
            for layer, each in zip(ALIGNMENT_LAYERS, values, strict=True):
                if np.isfinite(each).any():
                    tables[f"{layer}{place}"] = Series(history.names, history.steps, each)
        for key, series in tables.items():
            if series.values.size:
                found.setdefault(key, [None] * len(runs))[number] = series
    return found


def _cosines(run: RunHistory, target: str, history: AlignmentHistory) -> FloatArray:
    """Return the alignments divided by both norms; NaN where one is not known."""
    cosines = np.full_like(history.alignments, np.nan)
    norms, directions = run.gradient_norms, run.direction_norms
    known = set(norms.names).issuperset(history.names) and target in directions.names
    if not known:
        return cosines
    columns = [norms.names.index(name) for name in history.names]
    steps = np.intersect1d(np.intersect1d(norms.steps, directions.steps), history.steps)
    of_domains = norms.values[np.isin(norms.steps, steps)][:, columns]
    of_target = directions.of(target)[np.isin(directions.steps, steps)]
    product = of_domains * of_target[:, None]
    rows = np.isin(history.steps, steps)
    dots = history.alignments[rows]
    cosines[rows] = np.divide(dots, product, out=np.full_like(dots, np.nan), where=product > 0.0)
    return cosines


def _joined(infos: Sequence[DomainInfo]) -> DomainInfo:
    """Return the domains of all runs; where two runs say different things, the last counts."""
    joined = infos[0]
    for info in infos[1:]:
        joined = joined.followed_by(info)
    return joined


def _over_groups(tables: Tables, info: DomainInfo) -> Tables:
    """Return what is by domain over groups of domains; basis distributions are in none.

    Weights and tokens are summed; alignments are means by weight, others plain means.
    """
    domains = set(info.names)
    summed: Tables = {}
    for key, runs in tables.items():
        if not domains.issuperset(_names_in(runs)):
            continue
        summed[key] = [None] * len(runs)
        for number, series in enumerate(runs):
            if series is not None:
                weights = tables["weights"][number]
                summed[key][number] = _grouped(key, series, weights, info)
    return summed


def _grouped(key: str, series: Series, weights: Series | None, info: DomainInfo) -> Series:
    groups = info.group(series.names)
    shares = np.ones_like(series.values)
    if key.startswith(ALIGNMENT_LAYERS) and weights is not None:
        rows = np.searchsorted(weights.steps, series.steps).clip(max=weights.steps.size - 1)
        shares = np.nan_to_num(_ordered(weights, series.names).values[rows])
    if key in ("weights", "tokens"):
        values = groups.sum(series.values)
    elif key.startswith("error"):
        values = groups.standard_errors(series.values, shares)
    else:
        values = groups.mean(series.values, shares)
    return Series(groups.names, series.steps, values)


def _names_in(series: Iterable[Series | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in series if each for name in each.names))


def _spaces(tables: Tables, info: DomainInfo) -> dict[str, Space]:
    by_domain = ("validation", "trained", "epochs", "tokens", "weights")
    basis = set(info.basis)
    names = [name for key in by_domain for name in _names_in(tables.get(key, ()))]
    domains = tuple(dict.fromkeys(name for name in (*info.names, *names) if name not in basis))
    spaces = {DOMAINS: _space(domains, tables, info)}
    if info.basis:
        spaces[BASIS] = _space(info.basis, tables, info)
    return spaces


def _space(names: tuple[str, ...], tables: Tables, info: DomainInfo) -> Space:
    peaks = _peaks(names, tables.get("weights", ()))
    if not peaks.any():  # weights are of something else: the most trained ones lead
        peaks = _peaks(names, tables.get("tokens", ()))
    leading = tuple(np.argsort(-peaks, kind="stable").tolist())
    labels = {name: info.labels[name] for name in names if name in info.labels}
    return Space(names, labels, leading, style_places(names, leading))


def _peaks(names: Sequence[str], runs: Iterable[Series | None]) -> FloatArray:
    """Return the largest value of each name in any run, 0 for those without."""
    peaks = np.zeros(len(names))
    for each in runs:
        if each is not None and each.values.size:
            found = _ordered(each, names).values
            peaks = np.fmax(peaks, np.nan_to_num(np.fmax.reduce(found, axis=0)))
    return peaks


def _space_of(series: Iterable[Series | None], spaces: Mapping[str, Space]) -> str:
    """Return the space that has all names of a quantity; empty: none, it is not shown."""
    names = set(_names_in(series))
    return next((key for key, space in spaces.items() if names.issubset(space.names)), "")


def _ordered(series: Series, names: Sequence[str]) -> Series:
    """Return a series with the columns of a space; NaN where it has none."""
    columns = {name: column for column, name in enumerate(series.names)}
    values = np.full((series.steps.size, len(names)), np.nan)
    have = [place for place, name in enumerate(names) if name in columns]
    values[:, have] = series.values[:, [columns[names[place]] for place in have]]
    return Series(tuple(names), series.steps, values)


def _thin(series: Sequence[Series | None], groups: Sequence[RunGroup]) -> Layer:
    thinned: list[Series | None] = list(series)
    for group in groups:
        members = [number for number in group.members if series[number] is not None]
        kept = thin_curves([each for n in members if (each := series[n])], MOST_POINTS)
        for number, each in zip(members, kept, strict=True):
            thinned[number] = each
    return Layer(tuple(thinned))


def _thin_by(
    series: Sequence[Series | None], groups: Sequence[RunGroup], by: str, names: tuple[str, ...]
) -> Layer:
    cells = MOST_CELLS // (len(names) * len(series))
    most = min(max(cells, LEAST_COLUMNS), MOST_COLUMNS)
    thinned: list[Series | None] = list(series)
    for group in groups:
        members = [number for number in group.members if series[number] is not None]
        kept = thin_tables([each for n in members if (each := series[n])], most)
        for number, each in zip(members, kept, strict=True):
            thinned[number] = _ordered(each, names)
    return Layer(tuple(thinned), by)
