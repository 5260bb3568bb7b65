"""The experiment `clusters`: many of them, few specific examples (arXiv 2410.02498, section 4)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from pydantic import TypeAdapter

from megadga.report.records import read_metrics
from trials.agreement import markdown_table
from trials.evidence_data import SHORT_TARGET, clusters_root, short_target_root
from trials.evidence_results import (
    BASELINE,
    Gain,
    last_loss,
    mean_over_seeds,
    read_list,
    rise,
    write_list,
)
from trials.evidence_runs import EvidenceRun, is_finished

EXAMPLES = (8, 32, 128)
"""Specific sequences."""
RULES = {
    "uniform": False,
    "importance": True,
    "matched": True,
    "dga": True,
    "basis": False,
    "matched_basis": True,
    "dga_basis": True,
    "paper_basis": True,
}
"""Files of ``configs/evidence/clusters``, and whether what they do depends on the examples."""


@dataclass(frozen=True)
class ClusterRun:
    """A rule in one cell of the experiment, with one seed.

    Attributes:
        rule: One of `RULES`.
        clusters: Number of domains.
        examples: Specific sequences; None: the rule does not depend on them.
        seed: Of model, batches and probes.
    """

    rule: str
    clusters: int
    examples: int | None
    seed: int

    @property
    def run(self) -> EvidenceRun:
        """What is trained."""
        root, examples = clusters_root(self.clusters), self.examples or EXAMPLES[0]
        specific = f"{SHORT_TARGET}: {{path: {short_target_root(examples) / SHORT_TARGET}}}"
        changes = [f"data.domains={root / 'domains'}", f"data.specific={{{specific}}}"]
        if self.rule == "importance":
            changes.append(f"mixing.histogram={root / 'histograms' / str(examples)}.json")
        if self.rule.endswith("basis"):
            changes.append(f"mixing.basis={root / 'basis.npz'}")
        cell = f"{self.clusters} {self.examples or ''} {self.rule}"
        return EvidenceRun("clusters", self.rule, self.seed, cell, tuple(changes))


@dataclass(frozen=True)
class ClusterResult:
    """What a run came to.

    Attributes:
        run: Which one.
        losses: On the target's validation split by optimizer step, nats per token.
    """

    run: ClusterRun
    losses: Mapping[int, float]


_RESULTS = TypeAdapter(list[ClusterResult])


def planned_clusters(
    seeds: Sequence[int], clusters: Sequence[int], examples: Sequence[int], rules: Sequence[str]
) -> list[ClusterRun]:
    """Return the runs of some cells: everything with one seed before the next seed."""
    return list(dict.fromkeys(_in_order(seeds, clusters, examples, rules)))


def _in_order(
    seeds: Sequence[int], clusters: Sequence[int], examples: Sequence[int], rules: Sequence[str]
) -> Iterator[ClusterRun]:
    for seed in seeds:
        for number in clusters:
            for size in examples:
                for rule in rules:
                    yield ClusterRun(rule, number, size if RULES[rule] else None, seed)


def finished_clusters(planned: Sequence[ClusterRun]) -> list[ClusterResult]:
    """Return the results of those runs that are finished.

    Raises:
        ConfigError: If metrics cannot be read.
    """
    return [
        ClusterResult(
            each,
            {
                record["step"]: round(record["specific"][SHORT_TARGET], 4)
                for record in read_metrics(each.run.folder / "metrics.jsonl").of("evaluation")
            },
        )
        for each in planned
        if is_finished(each.run)
    ]


def write_clusters(path: Path, results: Sequence[ClusterResult]) -> None:
    """Write results as JSON, a line for each, in an order that depends on nothing else."""
    ordered = sorted(results, key=lambda each: _place(each.run))
    write_list(path, [asdict(each) for each in ordered])


def _place(run: ClusterRun) -> tuple[int, int, str, int]:
    return run.clusters, run.examples or 0, run.rule, run.seed


def read_clusters(path: Path) -> list[ClusterResult]:
    """Return the results in a file.

    Raises:
        ConfigError: If it is not one that `write_clusters` wrote.
    """
    return read_list(path, _RESULTS)


def clusters_table(results: Sequence[ClusterResult]) -> str:
    """Return a table in Markdown, a line a cell: the loss at uniform weights, and rules' gains."""
    rules = [name for name in RULES if name != BASELINE]
    rows: list[list[str]] = []
    for clusters, examples in _cells(results):
        own = _of_cell(results, clusters, examples)
        if not (uniform := own.get(BASELINE)):
            continue
        gains = [_gain(uniform, own.get(rule, {})) for rule in rules]
        ends = [last_loss(losses) for losses in uniform.values()]
        shown = ["" if each is None else str(each) for each in gains]
        rows.append([f"{clusters:,}", str(examples), f"{mean(ends):.3f}", *shown])
    titles = ("clusters", "examples", BASELINE, *(f"`{rule}`" for rule in rules))
    return markdown_table(titles, rows)


def rises_table(results: Sequence[ClusterResult]) -> str:
    """Return a table in Markdown, a line a cell: how far rules end above their best, at most."""
    rows: list[list[str]] = []
    for clusters, examples in _cells(results):
        own = _of_cell(results, clusters, examples)
        largest = [max(map(rise, own.get(rule, {}).values()), default=None) for rule in RULES]
        shown = ["" if each is None else f"{each:.3f}" for each in largest]
        rows.append([f"{clusters:,}", str(examples), *shown])
    return markdown_table(("clusters", "examples", *(f"`{rule}`" for rule in RULES)), rows)


def _cells(results: Sequence[ClusterResult]) -> list[tuple[int, int]]:
    """Return how many clusters and examples there are results with, in order."""
    return sorted({(r.run.clusters, r.run.examples) for r in results if r.run.examples})


def _of_cell(
    results: Sequence[ClusterResult], clusters: int, examples: int | None
) -> dict[str, dict[int, Mapping[int, float]]]:
    """Return losses by rule and seed, with those of rules that do not look at the examples."""
    found: dict[str, dict[int, Mapping[int, float]]] = {}
    for each in results:
        run = each.run
        if run.clusters == clusters and run.examples in {None, examples}:
            found.setdefault(run.rule, {})[run.seed] = each.losses
    return found


def _gain(
    uniform: Mapping[int, Mapping[int, float]], own: Mapping[int, Mapping[int, float]]
) -> Gain | None:
    seeds = uniform.keys() & own.keys()
    return mean_over_seeds([last_loss(uniform[seed]) - last_loss(own[seed]) for seed in seeds])
