"""The sampler's state in a run's metrics: records from which batches are planned again.

A record of type ``sampler`` holds the cursors and averaged weights after a step, exactly: with the
``update`` records that follow it, they determine every later batch. There is one when a run starts
or continues with other ranks, and every some steps. Metrics of long runs have many gigabytes, so a
step's records are found by bisection, as steps ascend in the file.
"""

import base64
import os
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.files import parse_strictly
from megadga.data.order import WindowOrder
from megadga.data.sampler import DrawMethod
from megadga.errors import ConfigError
from megadga.mixers.updates import UpdateSteps
from megadga.report.records import Record

SAMPLER = "sampler"
"""Type of these records."""
FROZEN, RELEASED = "mixture_frozen", "mixture_released"
"""Events after which updates are skipped, and are not any more."""

_MIN_INTERVAL = 1000
_DRAWS_PER_DOMAIN = 4
_BLOCK = 1 << 20
_HEAD = re.compile(rb'\{"type": "(\w+)", "step": (\d+)[,}]')
_HEAD_BYTES = 128


def record_interval(num_domains: int, global_batch_size: int) -> int:
    """Return the steps between two records of the sampler's state.

    Enough for four sequences of each domain to be trained in between: a record takes about two
    bytes a domain for its cursors, and 11 for its weights, unless they are of a basis.
    """
    return max(_MIN_INTERVAL, ceil(_DRAWS_PER_DOMAIN * num_domains / global_batch_size))


@dataclass(frozen=True)
class BatchLayout:
    """What a batch is planned and distributed by, beside the sampler's state and the weights.

    Attributes:
        ranks: Data-parallel ranks.
        micro_batch_size: Sequences per forward pass and rank.
        global_batch_size: ``B``.
        sequence_length: S.
        seed: Of the sampler.
        method: How it draws.
        max_epochs: Its limit of epochs; None: there is none.
        updates: After which steps the weights are updated; None: they never are.
        shards: Digest of the identity of the domains' shards.
    """

    ranks: int
    micro_batch_size: int
    global_batch_size: int
    sequence_length: int
    seed: int
    method: DrawMethod
    max_epochs: float | None
    updates: UpdateSteps | None
    shards: str


@dataclass(frozen=True, eq=False)
class SamplerRecord:
    """The state that batches after a step are planned from.

    Attributes:
        step: Optimizer steps completed.
        cursors: Windows drawn from each domain, over all epochs, shape ``(K,)``.
        weights: Averaged weights of the domains, or of the basis distributions.
        frozen: Whether updates are skipped.
        layout: Of the batches.
        order: Of the domains' windows, if domains have changed since the run began.
    """

    step: int
    cursors: IntArray
    weights: FloatArray
    frozen: bool
    layout: BatchLayout
    order: WindowOrder | None = None


def sampler_values(record: SamplerRecord) -> dict[str, Any]:
    """Return a record's values but for its step, as JSON takes them."""
    layout = {**vars(record.layout)}
    if record.layout.updates is not None:
        layout["updates"] = vars(record.layout.updates)
    return {
        "cursors": _encode(record.cursors.astype("<i8")),
        "averaged_weights": _encode(record.weights.astype("<f8")),
        "frozen": record.frozen,
        "layout": layout,
        **({} if record.order is None else {"order": _order_values(record.order)}),
    }


def read_sampler_values(place: str, values: Mapping[str, Any]) -> SamplerRecord:
    """Return the record that a line of metrics holds.

    Raises:
        ConfigError: If it holds none.
    """
    try:
        layout = dict(values["layout"])
        if layout["updates"] is not None:
            layout["updates"] = UpdateSteps(**layout["updates"])
        return SamplerRecord(
            step=values["step"],
            cursors=_decode(values["cursors"], "<i8").astype(np.int64),
            weights=_decode(values["averaged_weights"], "<f8").astype(np.float64),
            frozen=values["frozen"],
            layout=BatchLayout(**layout),
            order=_read_order(values["order"]) if "order" in values else None,
        )
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ConfigError(f"{place}: expected a sampler's state, found {error!r}") from None


_ORDER_ARRAYS = ("sizes", "numbers", "starts", "first_epochs", "growths")


def _order_values(order: WindowOrder) -> dict[str, Any]:
    arrays = {name: _encode(getattr(order, name).astype("<i8")) for name in _ORDER_ARRAYS}
    return {**arrays, "reserved": order.reserved, "next_number": order.next_number}


def _read_order(values: Mapping[str, Any]) -> WindowOrder:
    arrays = {name: _decode(values[name], "<i8").astype(np.int64) for name in _ORDER_ARRAYS}
    arrays["growths"] = arrays["growths"].reshape(-1, 4)
    counts = {"reserved": values["reserved"], "next_number": values["next_number"]}
    return WindowOrder(**arrays, **counts)


def _encode(array: NDArray[Any]) -> str:
    # Byte by byte over all numbers: the high bytes of cursors are almost all 0.
    planes = array.reshape(-1, 1).view(np.uint8).T.tobytes()
    return base64.b64encode(zlib.compress(planes)).decode()


def _decode(text: str, dtype: Literal["<i8", "<f8"]) -> NDArray[Any]:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.ascontiguousarray(planes.reshape(8, -1).T).view(dtype)[:, 0]


@dataclass(frozen=True, eq=False)
class SamplingLog:
    """What a run's metrics say about the batch of a step.

    Attributes:
        sampler: The last state that was recorded before the step.
        updates: The steps after it, before the step, after which weights changed, and these.
        frozen: Whether updates are skipped at the step.
        train: The step's ``train`` record; None if it has not been trained yet.
        last_step: The last step that has been trained, 0 for none.
        last_updated: Whether there is more about the last step than its ``train`` record, as an
            update; without, it may be about to be written.
    """

    sampler: SamplerRecord
    updates: tuple[tuple[int, FloatArray], ...]
    frozen: bool
    train: Record | None
    last_step: int
    last_updated: bool

    @property
    def weights(self) -> FloatArray:
        """Averaged weights of the domains, or basis distributions, after the last update."""
        return self.updates[-1][1] if self.updates else self.sampler.weights


def read_sampling(metrics: Path, step: int | None) -> SamplingLog:
    """Read what determines the batch of a step, also while the run is in progress.

    Args:
        metrics: A run's ``metrics.jsonl``. An incomplete last line is ignored.
        step: From 1; None: the one after the last.

    Raises:
        ConfigError: If the file cannot be read, is damaged, or has no state of the sampler.
    """
    with _opened(metrics) as lines:
        last_step, last_updated = _last_step(lines)
        step = last_step + 1 if step is None else step
        begin = lines.first_of(step)
        found: list[tuple[int, FloatArray]] = []
        frozen: bool | None = None
        sampler: SamplerRecord | None = None
        for line in lines.before(begin):
            if line.kind == SAMPLER:
                sampler = read_sampler_values(line.place, line.parse())
                break
            if line.kind == "update":
                found.append((line.step, _weights(line)))
            elif line.kind == "event" and frozen is None:
                frozen = {FROZEN: True, RELEASED: False}.get(line.parse().get("event", ""))
        if sampler is None:
            raise ConfigError(
                f"{metrics}: expected a record of type {SAMPLER} before step {step}, found none: "
                "the run was started by an earlier version"
            )
        train = next(
            (line.parse() for line in lines.of(begin, step) if line.kind == "train"), None
        )
    return SamplingLog(
        sampler,
        tuple(reversed(found)),
        sampler.frozen if frozen is None else frozen,
        train,
        last_step,
        last_updated,
    )


def weighted_names(metrics: Path, log: SamplingLog) -> tuple[str, ...]:
    """Return the names that the weights of a log are of.

    Raises:
        ConfigError: If the metrics do not have them.
    """
    with _opened(metrics) as lines:
        for line in chain(lines.of(0, 0), lines.before(lines.end)):
            if line.kind in ("event", "update"):
                names = tuple(_named(line.parse()))
                if len(names) == log.weights.size:
                    return names
    raise ConfigError(f"{metrics}: expected {log.weights.size} weights by name, found none")


def last_domain_weights(metrics: Path) -> tuple[int, dict[str, float]] | None:
    """Return the averaged weights of the domains that were logged last, and their step.

    Of a run over a basis they follow from its weights, and are older than these where
    ``metrics.by_domain_every`` leaves some out. None: there are none, as of very many domains.

    Raises:
        ConfigError: If the metrics cannot be read or are damaged.
    """
    with _opened(metrics) as lines:
        for line in lines.before(lines.end):
            if line.kind in ("event", "update") and (
                weights := line.parse().get("averaged_weights")
            ):
                return line.step, weights
    return None


def _last_step(lines: "_Lines") -> tuple[int, bool]:
    """Return the last step with a train record, and whether it has other records."""
    others: set[int] = set()
    for line in lines.before(lines.end):
        if line.kind == "train":
            return line.step, line.step in others
        others.add(line.step)
    return 0, False


def _weights(line: "_Line") -> FloatArray:
    if not (named := _named(line.parse())):
        raise ConfigError(f"{line.place}: expected averaged_weights, found none")
    return np.array(list(named.values()), dtype=np.float64)


def _named(record: Record) -> dict[str, float]:
    """Return the weights that a rule gives what it weights; empty: a record has none.

    With a basis these are its distributions, from which the domains' weights follow.
    """
    return record.get("basis_averaged_weights") or record.get("averaged_weights") or {}


@final
@dataclass(frozen=True)
class _Line:
    """A line of a metrics file, parsed only when it is asked for."""

    path: Path
    kind: str
    step: int
    content: bytes

    @property
    def place(self) -> str:
        return f"{self.path}: {self.kind} of step {self.step}"

    def parse(self) -> Record:
        try:
            return parse_strictly(self.content)
        except ValueError as error:
            raise ConfigError(f"{self.place}: expected JSON, found {error}") from None


@final
class _Lines:
    """The complete lines of a metrics file; by ``pread``, as the file may be truncated meanwhile.

    Attributes:
        end: Where the last complete line ends.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.end = self._line_start(os.fstat(descriptor).st_size)

    def first_of(self, step: int) -> int:
        """Return where the first line of a step, or a later one, begins."""
        low, high = 0, self.end
        while low < high:
            start = self._line_start((low + high) // 2)
            if self._head(os.pread(self._descriptor, _HEAD_BYTES, start))[1] < step:
                low = self._line_end(start)
            else:
                high = start
        return low

    def before(self, end: int) -> Iterator[_Line]:
        """Yield the lines before the one that begins at ``end``, the last one first."""
        parts: list[bytes] = []  # of a line whose start has not been read, in reverse
        while end > 0:
            begin = max(0, end - _BLOCK)
            block = self._read(begin, end)
            first, *others = block.split(b"\n")
            for piece in reversed(others):
                parts.append(piece)
                yield from self._joined(parts)
            parts.append(first)
            end = begin
        yield from self._joined(parts)

    def of(self, begin: int, step: int) -> Iterator[_Line]:
        """Yield the lines of a step, the first of which begins at ``begin``."""
        while begin < self.end:
            end = self._line_end(begin)
            content = self._read(begin, end)
            kind, found = self._head(content)
            if found != step:
                return
            yield _Line(self._path, kind, found, content)
            begin = end

    def _joined(self, parts: list[bytes]) -> Iterator[_Line]:
        content = b"".join(reversed(parts))
        parts.clear()
        if content:  # not what follows the last line break
            yield _Line(self._path, *self._head(content), content)

    def _head(self, content: bytes) -> tuple[str, int]:
        if (found := _HEAD.match(content)) is None:
            raise ConfigError(
                f"{self._path}: expected a record with type and step, found {content[:60]!r}"
            )
        return found[1].decode(), int(found[2])

    def _line_start(self, position: int) -> int:
        """Return where the line begins that holds the byte at ``position``."""
        while position > 0:
            begin = max(0, position - _BLOCK)
            found = self._read(begin, position).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            position = begin
        return 0

    def _line_end(self, position: int) -> int:
        """Return where the next line begins."""
        while position < self.end:
            block = self._read(position, min(position + _BLOCK, self.end))
            found = block.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(block)
        return self.end

    def _read(self, begin: int, end: int) -> bytes:
        content = os.pread(self._descriptor, end - begin, begin)
        if len(content) != end - begin:
            raise ConfigError(
                f"{self._path}: expected {end} bytes, found fewer: the run has gone back to a "
                "checkpoint meanwhile; try again"
            )
        return content


@contextmanager
def _opened(metrics: Path) -> Generator[_Lines]:
    try:
        descriptor = os.open(metrics, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{metrics}: expected a run's metrics, found {error.strerror}") from None
    try:
        yield _Lines(metrics, descriptor)
    finally:
        os.close(descriptor)
