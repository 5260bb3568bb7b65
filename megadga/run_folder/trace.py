"""``trace/``: projected gradients of all sequences that a run has trained on, in binary.

Each rank has a file ``rank-00000.trace`` of its own sequences, which is appended to alone:

    file     magic, length of the header (uint32), its CRC-32 (uint32), header (JSON), frames
    frame    CRC-32 of the rest (uint32), step (uint64), share that the weights keep in the step
             (float64), rate of each parameter (float64), domain of each sequence (int32), its
             window inside the domain (int64), its projected gradient (float32)

All numbers are little-endian. Frames have one length, and the first is that of step 1: where a
step is follows from its number, and a resumed run cuts the file there. The last frame may be
incomplete, as it is being written or its writer was killed: readers ignore it.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError, ResumeError

TRACE = "trace"
"""Name of the folder in a run's output folder."""
MAGIC = b"MDGATRC\x01"
"""First bytes of a file; the last of them is the version."""

_LENGTHS = struct.Struct("<II")
_STEP = struct.Struct("<IQd")


def kept_shape(shape: Sequence[int], dimension: int | None) -> tuple[int, ...]:
    """Return the shape of a parameter's gradient after each side was projected.

    Args:
        shape: Of the parameter.
        dimension: Numbers that a side is projected to; one that has no more is kept as it is.
            None: all are.
    """
    return tuple(size if dimension is None else min(size, dimension) for size in shape)


def frame_bytes(sizes: IntArray, num_sequences: int) -> int:
    """Return the bytes of a frame: ``20 + 8 P + n (12 + 4 p)``, with ``p`` numbers a sequence.

    Args:
        sizes: Numbers of each parameter's projected gradient, shape ``(P,)``.
        num_sequences: Of the frame (n).
    """
    of_sequence = 4 + 8 + 4 * int(sizes.sum())
    return _STEP.size + 8 * sizes.size + num_sequences * of_sequence


@final
@dataclass(frozen=True)
class TracedParameter:
    """A parameter whose gradient is in the trace.

    Attributes:
        name: In the run's model.
        shape: Of the parameter.
        kept: Of its projected gradient.
    """

    name: str
    shape: tuple[int, ...]
    kept: tuple[int, ...]


@final
@dataclass(frozen=True)
class TraceHeader:
    """What a file of a trace says of itself.

    Attributes:
        rank: Whose sequences it has.
        ranks: Of the run.
        global_batch_size: Sequences of a step over all ranks (B).
        sequence_length: Targets of each sequence (S).
        seed: Of the run and of the projections.
        dimension: Numbers that each side of a parameter is projected to at most; None: all.
        optimizer: ``SGD``, or ``AdamW``, whose rates are by parameter.
        shards: Digest of the training domains' identity.
        domains: Their names, ``K`` of them.
        parameters: In the order of their numbers.
    """

    rank: int
    ranks: int
    global_batch_size: int
    sequence_length: int
    seed: int
    dimension: int | None
    optimizer: str
    shards: str
    domains: tuple[str, ...]
    parameters: tuple[TracedParameter, ...]

    @property
    def num_sequences(self) -> int:
        """Sequences of a step on this rank (n)."""
        return self.global_batch_size // self.ranks

    @cached_property
    def sizes(self) -> IntArray:
        """Numbers of each parameter's projected gradient, shape ``(P,)``."""
        return np.array([np.prod(each.kept, dtype=np.int64) for each in self.parameters])

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return frame_bytes(self.sizes, self.num_sequences)

    def encoded(self) -> bytes:
        """Return the beginning of a file, before its frames."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return MAGIC + _LENGTHS.pack(len(content), zlib.crc32(content)) + content

    def as_json(self) -> dict[str, Any]:
        """Return the header as its file has it."""
        return cast("dict[str, Any]", json.loads(json.dumps(asdict(self))))


@final
@dataclass(frozen=True, eq=False)
class TracedStep:
    """What a rank has trained on in a step.

    Attributes:
        step: Optimizer step, from 1.
        kept: Share of the weights that weight decay leaves.
        rates: What the mean gradient of the global batch was multiplied by to get the step, by
            parameter, divided by ``B``; shape ``(P,)``.
        domains: Domain of each sequence, shape ``(n,)``.
        windows: Its window inside the domain, shape ``(n,)``.
        gradients: Projected gradient of its mean loss, float32, shape ``(n, p)``.
    """

    step: int
    kept: float
    rates: FloatArray
    domains: IntArray
    windows: IntArray
    gradients: FloatArray

    def encoded(self) -> bytes:
        """Return the frame."""
        content = b"".join(
            (
                _STEP.pack(0, self.step, self.kept)[4:],
                self.rates.astype("<f8").tobytes(),
                self.domains.astype("<i4").tobytes(),
                self.windows.astype("<i8").tobytes(),
                self.gradients.astype("<f4").tobytes(),
            )
        )
        return zlib.crc32(content).to_bytes(4, "little") + content


def trace_path(output: Path, rank: int) -> Path:
    """Return the file of a rank in a run's output folder."""
    return output / TRACE / f"rank-{rank:05d}.trace"


@final
@dataclass(frozen=True, eq=False)
class TraceFile:
    """A rank's file, opened; steps are read when they are asked for.

    Attributes:
        path: The file.
        header: What it says of itself.
        begin: Bytes before the frames.
        num_steps: Complete frames.
    """

    path: Path
    header: TraceHeader
    begin: int
    num_steps: int

    def end_of(self, step: int) -> int:
        """Return the length of the file after a step, in bytes; 0: before the first."""
        return self.begin + step * self.header.frame_bytes

    def read(self, step: int) -> TracedStep:
        """Read a step, from 1 to ``num_steps``.

        Raises:
            ConfigError: If it is damaged, or the file was truncated meanwhile.
        """
        header, number = self.header, self.header.num_sequences
        with self.path.open("rb") as file:
            file.seek(self.end_of(step - 1))
            content = file.read(header.frame_bytes)
        if len(content) < header.frame_bytes:
            raise self._invalid(step, f"{len(content)} of {header.frame_bytes} bytes")
        checksum, found, kept = _STEP.unpack_from(content)
        if checksum != zlib.crc32(memoryview(content)[4:]):
            raise self._invalid(step, "another checksum")
        if found != step:
            raise self._invalid(step, f"step {found}")
        offset, arrays = _STEP.size, list[np.ndarray[Any, Any]]()
        size = int(header.sizes.sum())
        for dtype, count in (
            ("<f8", len(header.parameters)),
            ("<i4", number),
            ("<i8", number),
            ("<f4", number * size),
        ):
            arrays.append(np.frombuffer(content, dtype=dtype, count=count, offset=offset))
            offset += arrays[-1].nbytes
        rates, domains, windows, gradients = arrays
        return TracedStep(
            step,
            kept,
            rates,
            domains.astype(np.int64),
            windows,
            gradients.reshape(number, size),
        )

    def _invalid(self, step: int, found: str) -> ConfigError:
        return ConfigError(f"{self.path}: step {step}: expected a sound frame, found {found}")


def open_trace_file(path: Path) -> TraceFile:
    """Open a rank's file, also while the run is in progress.

    Raises:
        ConfigError: If there is none, or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise ConfigError(f"{path}: expected {MAGIC!r} at the beginning, found {magic!r}")
            length, checksum = _LENGTHS.unpack(file.read(_LENGTHS.size))
            content = file.read(length)
        if zlib.crc32(content) != checksum:
            raise ConfigError(f"{path}: expected a sound header, found another checksum")
        header = _header(json.loads(content))
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path}: expected a trace, found {error.strerror}") from None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ConfigError(f"{path}: expected the header of a trace, found {error!r}") from None
    begin = len(MAGIC) + _LENGTHS.size + length
    return TraceFile(path, header, begin, (size - begin) // header.frame_bytes)


def _header(values: dict[str, Any]) -> TraceHeader:
    values["domains"] = tuple(values["domains"])
    values["parameters"] = tuple(
        TracedParameter(each["name"], tuple(each["shape"]), tuple(each["kept"]))
        for each in values["parameters"]
    )
    return TraceHeader(**values)


def open_trace(output: Path, *, num_steps: int) -> list[TraceFile]:
    """Open the files of all ranks of a run.

    Args:
        output: The run's output folder.
        num_steps: Steps that all of them must have.

    Raises:
        ConfigError: If a file is missing or damaged, has fewer steps, or is not of the same run.
    """
    first = open_trace_file(trace_path(output, 0))
    files = [first]
    files += [open_trace_file(trace_path(output, rank)) for rank in range(1, first.header.ranks)]
    for rank, file in enumerate(files):
        check_header(file.path, {**first.header.as_json(), "rank": rank}, file.header.as_json())
        if file.num_steps < num_steps:
            raise ConfigError(
                f"{file.path}: expected the {num_steps} steps of the checkpoint, "
                f"found {file.num_steps}"
            )
    return files


def check_header(path: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that a file was begun by the run that goes on with it.

    Args:
        path: The file.
        expected: The header that the run would write, as JSON.
        found: That of the file.

    Raises:
        ResumeError: Naming the first key in which they differ.
    """
    for key, value in expected.items():
        if found.get(key) != value:
            raise ResumeError(
                f"{path}: {key}: expected {_short(value)}, as in this run, "
                f"found {_short(found.get(key))}: a trace goes on with what it was begun with"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
