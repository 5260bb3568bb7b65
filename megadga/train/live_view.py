"""A run as it is now, on the last rows of a terminal: progress, losses, weights, last event."""

import heapq
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from megadga.plugin import Metrics
from megadga.terminal import PinnedRows
from megadga.train.progress import (
    Pace,
    evaluated_losses,
    format_duration,
    happened,
    shown_weights,
)

_FRAME_S = 0.25
"""Shortest time between two frames."""


_LARGEST_SHARE = 0.003
"""Of the training process's time that frames take: the more one takes, the fewer there are."""


_MOST_DOMAINS = 64
"""Domains that are ranked after an update; no terminal has room for more."""


_FEWEST_COLUMNS, _FEWEST_LINES = 20, 4


_MOST_COLUMNS = 120
"""Rows are no wider, so that a name and what is said of it stay together."""


_FEWEST_WEIGHTS = 3
"""Rows with weights: titles, the largest one, and how many more there are."""


@dataclass(frozen=True)
class ShownWeights:
    """Weights of domains, or of a basis, after an update.

    Attributes:
        step: The step of the update, or that from which the weights are.
        weights: By name.
        leading: The names of the largest ones, largest first.
        effective: How many domains there are effectively; None: unknown.
    """

    step: int
    weights: Mapping[str, float]
    leading: tuple[str, ...]
    effective: float | None = None

    @classmethod
    def of(
        cls, step: int, weights: Mapping[str, float], effective: float | None = None
    ) -> "ShownWeights":
        """Return weights with their ranking."""
        leading = heapq.nlargest(_MOST_DOMAINS, weights, key=weights.__getitem__)
        return cls(step, weights, tuple(leading), effective)


@dataclass(frozen=True)
class ShownLosses:
    """Validation losses, and those before.

    Attributes:
        step: Of the evaluation.
        losses: By specific set, and ``general``; nats per token.
        before: Those of the evaluation before; empty: this process made none.
    """

    step: int
    losses: Mapping[str, float]
    before: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """What a view shows.

    Attributes:
        title: The run.
        total_steps: Optimizer steps of the whole run.
        weights: The present ones.
        start: The weights at the start of the run; None: unknown.
        before: The weights before the last update; None: there was none.
        step: Optimizer steps completed.
        left_s: Seconds until the last step; None: unknown.
        train: The record of the last step; empty: there was none.
        validation: The last evaluation; None: there was none.
        event: What happened last.
    """

    title: str
    total_steps: int
    weights: ShownWeights
    start: ShownWeights | None = None
    before: ShownWeights | None = None
    step: int = 0
    left_s: float | None = None
    train: Mapping[str, Any] = field(default_factory=dict[str, Any])
    validation: ShownLosses | None = None
    event: str = ""

    def after(self, step: int, metrics: Metrics) -> "Status":
        """Return the status after records of optimizer step ``step``."""
        status = replace(self, step=step)
        if "train" in metrics:
            status = replace(status, train=metrics["train"])
        if "update" in metrics:
            update = metrics["update"]
            weights = ShownWeights.of(step, shown_weights(update), update.get("effective_domains"))
            status = replace(status, before=self.weights, weights=weights)
        if "evaluation" in metrics:
            losses = evaluated_losses(metrics["evaluation"])
            before = {} if self.validation is None else self.validation.losses
            status = replace(status, validation=ShownLosses(step, losses, before))
        events = [line for line in happened(step, metrics) if ": validation " not in line]
        return replace(status, event=events[-1]) if events else status


@final
class LiveView:
    """Shows a run's status below the lines of what happens; a ``Progress``.

    It is drawn while records are logged, by no thread of its own, and rarely enough to take no
    more than 0.3 % of the time.

    Args:
        rows: Of the terminal; closed with the view.
        status: At the start.
        bar: Character of bars.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        rows: PinnedRows,
        status: Status,
        *,
        bar: str = "━",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._status = status
        self._bar = bar
        self._clock = clock
        self._pace = Pace(status.total_steps, clock)
        self._next_s = clock()
        self._console = Console(
            file=io.StringIO(), force_terminal=True, highlight=False, markup=False, emoji=False
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """Show the records of optimizer step ``step``."""
        self._status = self._status.after(step, metrics)
        if "train" in metrics:
            self._pace.advance(step)
        for line in happened(step, metrics):
            self._rows.print(line)
        if not self._status.train:  # the run is being set up, and may still fail
            return
        if (began := self._clock()) >= self._next_s and self._rows.takes_rows:
            self._draw()
            ended = self._clock()
            self._next_s = ended + max(_FRAME_S, (ended - began) / _LARGEST_SHARE)

    def close(self) -> None:
        """Remove the view, and give the terminal back."""
        self._rows.close()

    def _draw(self) -> None:
        columns, lines = self._rows.size
        status = replace(self._status, left_s=self._pace.left_s())
        text = Text("\n").join(view_rows(status, columns=columns, lines=lines, bar=self._bar))
        self._console.size = (columns, lines)
        with self._console.capture() as captured:
            self._console.print(text, end="", no_wrap=True, overflow="crop")
        self._rows.show(captured.get().split("\n") if text else [])


def view_rows(status: Status, *, columns: int, lines: int, bar: str = "━") -> list[Text]:
    """Return the rows of a view, half of a terminal's lines at most; none on a tiny one.

    Args:
        status: What they show.
        columns: The terminal's width; rows may be wider, and are cropped then.
        lines: The terminal's height.
        bar: Character of bars.
    """
    if columns < _FEWEST_COLUMNS or lines < _FEWEST_LINES:
        return []
    columns, room = min(columns, _MOST_COLUMNS), lines // 2
    progress = _progress_row(status, columns, bar)
    about = [progress, _training_row(status.train)]
    if status.validation is not None:
        about += _validation_rows(status.validation, columns)
    event = [Text(_printable(f"last event  {status.event}"), style="dim")] if status.event else []
    title = [_title_row(status.title, columns, bar)]
    for_weights = room - len(title) - len(about) - len(event)
    if for_weights < _FEWEST_WEIGHTS:
        return [*about, *event][:room]
    return [*title, *about, *_weight_rows(status, columns, for_weights, bar), *event]


def _title_row(title: str, columns: int, bar: str) -> Text:
    name = f"{bar * 2} {_printable(title)} "
    return Text(name + bar * max(0, columns - cell_len(name)), style="dim")


def _progress_row(status: Status, columns: int, bar: str) -> Text:
    share = status.step / status.total_steps
    before = f"step {status.step:,}/{status.total_steps:,}  "
    left = "" if status.left_s is None else f"  {format_duration(status.left_s)} left"
    after = f"  {share:4.0%}{left}"
    text = Text.assemble((before, "bold"))
    text.append_text(_bar(share, max(0, columns - len(before) - len(after)), bar))
    return text.append(after, style="bold")


def _training_row(train: Mapping[str, Any]) -> Text:
    text = Text.assemble("training  loss ", (f"{train['loss']:.3f}", "bold"))
    text.append(f"  {train['tokens_per_s']:,.0f} tokens/s")
    if (rate := train.get("learning_rate")) is not None:
        text.append(f"  learning rate {rate:.3g}")
    if (utilisation := train.get("mfu")) is not None:
        text.append(f"  MFU {utilisation:.1%}")
    return text


def _validation_rows(validation: ShownLosses, columns: int) -> list[Text]:
    """Return a row of losses, or two; the last ones are left out where they have no place."""
    rows = [Text(f"validation at {validation.step:,}")]
    indent = " " * 2
    items = [_loss(name, loss, validation.before) for name, loss in validation.losses.items()]
    for number, item in enumerate(items):
        if rows[-1].cell_len + 2 + item.cell_len > columns:
            if len(rows) == 2:
                rows[-1].append(f"  +{len(items) - number}")
                break
            rows.append(Text())
        rows[-1].append(indent).append_text(item)
    return rows


def _loss(name: str, loss: float, before: Mapping[str, float]) -> Text:
    text = Text.assemble(f"{_printable(name)} ", (f"{loss:.3f}", "bold"))
    if name in before:
        text.append(" ").append_text(_change(loss - before[name], falls_well=True))
    return text


def _weight_rows(status: Status, columns: int, room: int, bar: str) -> list[Text]:
    """Return the titles of weights and a row for each of the largest ones, ``room`` at most."""
    now = status.weights
    earlier = [each for each in (status.before, status.start) if each is not None]
    if len(earlier) == 2 and earlier[0].step == earlier[1].step:
        earlier = earlier[:1]
    earlier = [each for each in earlier if each.step < now.step]
    size = max(9, *(len(f"since {each.step:,}") + 2 for each in earlier)) if earlier else 0
    names = now.leading[: room - (1 if len(now.weights) < room else 2)]
    widest = max(cell_len(_printable(name)) for name in names)
    name_size = min(widest, columns // 3)
    for_bar = max(0, columns - name_size - len("  0.000  ") - size * len(earlier))
    title = f"weights at {now.step:,}"
    if now.effective is not None:
        title += f": {now.effective:.1f} effective of {len(now.weights):,}"
    titles = Text(set_cell_size(title, columns - size * len(earlier)), style="dim")
    for each in earlier:
        titles.append(f"since {each.step:,}".rjust(size))
    rows = [titles]
    for name in names:
        weight = now.weights[name]
        row = Text(set_cell_size(_printable(name), name_size))
        row.append(f"  {weight:.3f}  ", style="bold")
        row.append_text(_bar(weight / now.weights[names[0]], for_bar, bar))
        for each in earlier:
            text = _change(weight - each.weights[name]) if name in each.weights else Text()
            row.append(" " * (size - text.cell_len)).append_text(text)
        rows.append(row)
    if (others := len(now.weights) - len(names)) > 0:
        rest = max(0.0, 1.0 - sum(now.weights[name] for name in names))
        label = set_cell_size(f"{others:,} more", max(name_size, len(f"{others:,} more")))
        rows.append(Text(f"{label}  {rest:.3f}", style="dim"))
    return rows


def _bar(share: float, size: int, character: str) -> Text:
    filled = round(min(1.0, max(0.0, share)) * size)
    return Text.assemble((character * filled, "cyan"), (" " * (size - filled), ""))


def _change(change: float, *, falls_well: bool = False) -> Text:
    style = "" if abs(change) < 5e-4 else "green" if (change < 0.0) == falls_well else "yellow"
    return Text(f"{change:+.3f}", style=style)


def _printable(text: str) -> str:
    """Return a text without characters that would move the cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)
