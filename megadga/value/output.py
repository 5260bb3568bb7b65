"""What `megadga value` prints and writes of a run's values: tables, and JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tabulate import tabulate

from megadga.data.located import DocumentPart
from megadga.run_folder.trace import TraceHeader
from megadga.value.documents import ValuedDocument
from megadga.value.phases import PhaseValues, values_by_phase
from megadga.value.recursion import SequenceValues

_ROWS = 20
"""Domains that the table shows of either end."""


@final
@dataclass(frozen=True)
class ListedSequence:
    """A sequence with its value.

    Attributes:
        value: Nats a token.
        step: Optimizer step that it was trained in, from 1.
        domain: Its domain.
        window: Its window inside the domain.
        documents: Parts of documents that it consists of.
    """

    value: float
    step: int
    domain: str
    window: int
    documents: tuple[DocumentPart, ...]


@final
@dataclass(frozen=True)
class ListedDocuments:
    """Documents of a run at both ends, by value.

    Attributes:
        number: All that were trained on.
        helpful: Of the largest values, largest first.
        harmful: Of the smallest values, smallest first.
    """

    number: int
    helpful: Sequence[ValuedDocument]
    harmful: Sequence[ValuedDocument]

    @classmethod
    def of(cls, documents: Sequence[ValuedDocument], top: int) -> "ListedDocuments":
        """Return those at the ends.

        Args:
            documents: All, the largest value first.
            top: Number of each end, at most half of all.
        """
        number = min(top, len(documents) // 2)
        ends = documents[:number], documents[::-1][:number]
        return cls(len(documents), *ends)

    def as_json(self) -> dict[str, Any]:
        """Return them JSON-serializable."""
        ends = {"helpful": self.helpful, "harmful": self.harmful}
        listed = {name: [one.as_json() for one in each] for name, each in ends.items()}
        return {"number": self.number, **listed}


@final
@dataclass(frozen=True, eq=False)
class ValuedRun:
    """Values of a run, and what they are of.

    Attributes:
        run: The run's folder.
        step: Optimizer steps of the checkpoint that is the end.
        target: Name of the target.
        loss: Its loss there, in nats a token.
        header: Of the trace.
        found: The values.
        phases: By domain and phase.
        helpful: Sequences of the largest values, largest first.
        harmful: Sequences of the smallest values, smallest first.
        documents: Documents of the largest and of the smallest values; None: not asked for.
    """

    run: Path
    step: int
    target: str
    loss: float
    header: TraceHeader
    found: SequenceValues
    phases: PhaseValues
    helpful: Sequence[ListedSequence]
    harmful: Sequence[ListedSequence]
    documents: ListedDocuments | None

    @property
    def ends(self) -> list[int]:
        """Optimizer steps completed when each phase ends."""
        return [*self.phases.begins[1:].tolist(), self.step]


def as_json(valued: ValuedRun) -> dict[str, Any]:
    """Return all but the single values, JSON-serializable; None stands for what is not known."""
    phases, names = valued.phases, valued.header.domains

    def of_domains(phase: int) -> dict[str, Any]:
        return {
            name: {
                "total": float(phases.totals[phase, index]),
                "sequences": int(phases.counts[phase, index]),
                "mean": _finite(phases.means[phase, index]),
                "standard_error": _finite(phases.errors[phase, index]),
            }
            for index, name in enumerate(names)
        }

    def sequences(each: Sequence[ListedSequence]) -> list[dict[str, Any]]:
        return [
            {
                **vars(one),
                "documents": [{**vars(part), "shard": str(part.shard)} for part in one.documents],
            }
            for one in each
        ]

    return {
        "run": str(valued.run),
        "step": valued.step,
        "target": valued.target,
        "loss": valued.loss,
        "optimizer": valued.header.optimizer,
        "unstable_steps": list(valued.found.unstable_steps),
        "phases": [
            {"after": begin, "until": end, "domains": of_domains(phase)}
            for phase, (begin, end) in enumerate(
                zip(phases.begins.tolist(), valued.ends, strict=True)
            )
        ],
        "helpful": sequences(valued.helpful),
        "harmful": sequences(valued.harmful),
        **({} if valued.documents is None else {"documents": valued.documents.as_json()}),
    }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def tables(valued: ValuedRun) -> Iterator[str]:
    """Yield what is printed, in parts."""
    yield (
        f"{valued.run}, step {valued.step:,}: value of each sequence for {valued.target}, "
        f"whose loss is {valued.loss:.4f}, in nats a token"
    )
    yield _table_of_domains(valued)
    if unstable := valued.found.unstable_steps:
        yield (
            f"at {len(unstable):,} steps, the last of them {unstable[-1]:,}, the approximated "
            "curvature times the rate exceeds 2: values of earlier steps are not to be trusted"
        )
    if valued.header.optimizer == "AdamW":
        yield "under AdamW: with one rate a parameter, by its mean second moment"
    for title, each in (("most helpful", valued.helpful), ("most harmful", valued.harmful)):
        if each:
            rows = [(f"{title}", "step", "domain", "window", "documents")]
            rows += [
                (
                    f"{one.value:+.3g}",
                    f"{one.step:,}",
                    one.domain,
                    f"{one.window:,}",
                    _documents(one.documents),
                )
                for one in each
            ]
            align = ("right", "right", "left", "right", "left")
            yield tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    if valued.documents is not None:
        yield from _tables_of_documents(valued.documents)


def _tables_of_documents(listed: ListedDocuments) -> Iterator[str]:
    for title, each in (("helpful", listed.helpful), ("harmful", listed.harmful)):
        rows = [(f"most {title} of {listed.number:,}", "tokens", "domain", "document", "id")]
        rows += [
            (
                f"{one.value:+.3g}",
                f"{one.tokens:,}",
                one.domain,
                f"{one.shard.name} {one.document}",
                one.id or "",
            )
            for one in each
        ]
        align = ("right", "right", "left", "left", "left")
        yield tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)


def _table_of_domains(valued: ValuedRun) -> str:
    """Return the domains, largest sum first; of many those at the ends."""
    phases, names = valued.phases, valued.header.domains
    whole = values_by_phase(valued.found, num_phases=1, num_domains=len(names))
    bounds = zip(phases.begins.tolist(), valued.ends, strict=True)
    spans = [f"{begin + 1}-{end}" for begin, end in bounds]
    rows: list[tuple[str, ...]] = [("domain", "sequences", "a sequence", "+-", "all", *spans)]
    order: list[int] = np.argsort(-whole.totals[0], kind="stable").tolist()
    left_out = len(order) - 2 * _ROWS
    for index in order if left_out <= 0 else (*order[:_ROWS], *order[-_ROWS:]):
        number = int(whole.counts[0, index])
        mean, error = whole.means[0, index], whole.errors[0, index]
        shown = (
            "-" if np.isnan(each) else f"{each:{sign}.2g}"
            for each, sign in ((mean, "+"), (error, ""))
        )
        sums = (whole.totals[0, index], *phases.totals[:, index])
        rows.append((names[index], f"{number:,}", *shown, *(f"{each:+.4f}" for each in sums)))
    sums = (whole.totals.sum(), *phases.totals.sum(axis=1))
    total = f"{int(whole.counts.sum()):,}"
    rows.append(("all", total, "", "", *(f"{each:+.4f}" for each in sums)))
    align = ["left", *("right",) * (len(rows[0]) - 1)]
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    return table if left_out <= 0 else f"{table}\nand {left_out:,} domains between: --json"


def _documents(parts: Sequence[DocumentPart]) -> str:
    """Return the documents of a window: their numbers in each shard."""
    names = dict.fromkeys(part.shard.name for part in parts)
    return "; ".join(
        f"{name} {','.join(str(part.document) for part in parts if part.shard.name == name)}"
        for name in names
    )
