"""``by_domain.log``: every value by domain of a run, complete, in binary.

The metrics of a run with thousands of domains leave most of these out. This file has all of them,
at 4 bytes a value, or 8 for weights, so that they are exact. It is appended to alone:

    file     magic, then frames
    frame    length of the payload (uint32), CRC-32 of length and payload (uint32), payload
    names    "N", number of the set of names (uint32), a JSON list of them
    values   "V", number of the set of names (uint32), step (uint64), bytes of a value (uint8),
             length of the key (uint8), key, values in the order of the names

All numbers are little-endian, and values are IEEE floats. A set of names comes before the first
values that it is of. Of two frames with one key and step the later one holds. The last frame may
be incomplete, as it is being written or its writer was killed: readers ignore it.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast, final

import numpy as np

from megadga.arrays import FloatArray, IntArray
from megadga.errors import ConfigError

DOMAIN_LOG = "by_domain.log"
"""Name of the file in a run's output folder."""
MAGIC = b"MDGALOG\x01"
"""First bytes of the file; the last of them is the version."""
WINDOWS = "domain_windows"
"""Key of the number of windows of each domain, one epoch of it."""
EVALUATION = "evaluation.domains"
"""Key of the validation losses of the domains."""

_FRAME = struct.Struct("<II")
_NAMES = struct.Struct("<cI")
_VALUES = struct.Struct("<cIQBB")
_EXACT = 8
_ROUNDED = 4


def is_exact(key: str) -> bool:
    """Tell whether the values of a key are written with all their bits."""
    return key.endswith("weights") or key == WINDOWS


def names_frame(number: int, names: Sequence[str]) -> bytes:
    """Return the frame of a set of names.

    Args:
        number: By which frames of values refer to it, from 0.
        names: All different.
    """
    return _frame(_NAMES.pack(b"N", number) + json.dumps(list(names)).encode())


def values_frame(key: str, step: int, number: int, values: FloatArray) -> bytes:
    """Return the frame of one value for each name.

    Args:
        key: What they are, at most 255 bytes.
        step: Optimizer steps completed, at least 0.
        number: Of the set of names.
        values: In their order.
    """
    size = _EXACT if is_exact(key) else _ROUNDED
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        content = values.astype(f"<f{size}").tobytes()
    encoded = key.encode()
    return _frame(_VALUES.pack(b"V", number, step, size, len(encoded)) + encoded + content)


def _frame(payload: bytes) -> bytes:
    length = len(payload).to_bytes(4, "little")
    return _FRAME.pack(len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


@final
@dataclass(frozen=True, eq=False)
class Series:
    """Numbers by name over the steps of a run.

    Attributes:
        names: Of domains, basis distributions, sets or others, ``K`` of them, in the order of
            appearance.
        steps: Optimizer steps, ascending, shape ``(N,)``.
        values: Shape ``(N, K)``; NaN where there is none, or it was not finite.
    """

    names: tuple[str, ...]
    steps: IntArray
    values: FloatArray

    def of(self, name: str) -> FloatArray:
        """Return the values of one name, shape ``(N,)``."""
        return self.values[:, self.names.index(name)]


@dataclass(frozen=True)
class _Place:
    """Where values are in the file.

    Attributes:
        number: Of their set of names.
        offset: Of the first value, in bytes.
        size: Bytes of a value.
        length: Bytes of all of them.
    """

    number: int
    offset: int
    size: int
    length: int


@final
@dataclass(frozen=True, eq=False)
class DomainLog:
    """The content of a run's ``by_domain.log``; values are read when they are asked for.

    Attributes:
        path: The file.
        length: Bytes of its complete frames.
        name_sets: Sets of names by their numbers.
    """

    path: Path
    length: int
    name_sets: Mapping[int, tuple[str, ...]]
    _places: Mapping[str, Mapping[int, _Place]]

    @property
    def keys(self) -> tuple[str, ...]:
        """What there are values of, in the order of appearance."""
        return tuple(self._places)

    def steps(self, key: str) -> tuple[int, ...]:
        """Return the steps that there are values of a key for, ascending; none if unknown."""
        return tuple(sorted(self._places.get(key, ())))

    def series(self, key: str) -> Series:
        """Return all values of a key.

        Raises:
            ConfigError: If there are none, or the file was truncated meanwhile.
        """
        places = self._places.get(key)
        if places is None:
            found = ", ".join(self._places) or "none"
            raise ConfigError(f"{self.path}: expected values of {key!r}, found {found}")
        steps = sorted(places)
        sets = dict.fromkeys(place.number for place in places.values())
        names = tuple(dict.fromkeys(name for each in sets for name in self.name_sets[each]))
        columns = {name: column for column, name in enumerate(names)}
        taken = {each: [columns[name] for name in self.name_sets[each]] for each in sets}
        values = np.full((len(steps), len(names)), np.nan)
        with self.path.open("rb") as file:
            for row, step in enumerate(steps):
                values[row, taken[places[step].number]] = self._read(file, places[step])
        return Series(names, np.array(steps, dtype=np.int64), values)

    def at(self, key: str, step: int) -> FloatArray:
        """Return the values of a key for a step, in the order of their names, shape ``(K,)``.

        Raises:
            ConfigError: If there are none, or the file was truncated meanwhile.
        """
        if (place := self._places.get(key, {}).get(step)) is None:
            raise ConfigError(f"{self.path}: expected values of {key!r} for step {step}")
        with self.path.open("rb") as file:
            return self._read(file, place)

    def _read(self, file: BinaryIO, place: _Place) -> FloatArray:
        file.seek(place.offset)
        content = file.read(place.length)
        if len(content) < place.length:
            raise ConfigError(
                f"{self.path}: expected {self.length} bytes, found fewer: the run has gone back "
                "to a checkpoint meanwhile; try again"
            )
        return np.frombuffer(content, dtype=f"<f{place.size}").astype(np.float64)


def read_domain_log(path: Path) -> DomainLog:
    """Read the index of a run's log, also while the run is in progress, and verify all of it.

    Args:
        path: The file. Empty, it has no values.

    Raises:
        ConfigError: If it cannot be read, or is damaged elsewhere than at its end.
    """
    name_sets: dict[int, tuple[str, ...]] = {}
    places: dict[str, dict[int, _Place]] = {}
    end = 0
    try:
        with path.open("rb") as file:
            for offset, payload in _payloads(file, path):
                _index(payload, offset, name_sets, places)
                end = offset + len(payload)
    except OSError as error:
        raise ConfigError(f"{path}: expected a log by domain, found {error.strerror}") from None
    except (ValueError, KeyError, struct.error) as error:
        raise ConfigError(
            f"{path}: after byte {end}: expected a frame of a log by domain, found {error!r}"
        ) from None
    return DomainLog(path, end or min(len(MAGIC), path.stat().st_size), name_sets, places)


def _payloads(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each complete payload, and where it begins."""
    size = os.fstat(file.fileno()).st_size
    magic = file.read(len(MAGIC))
    if not MAGIC.startswith(magic):
        raise ConfigError(f"{path}: expected {MAGIC!r} at the beginning, found {magic!r}")
    offset = len(magic)
    while offset + _FRAME.size <= size:
        length, checksum = _FRAME.unpack(file.read(_FRAME.size))
        offset += _FRAME.size
        payload = file.read(length) if offset + length <= size else b""
        sound = len(payload) == length and checksum == zlib.crc32(
            payload, zlib.crc32(length.to_bytes(4, "little"))
        )
        if not sound and offset + length >= size:
            return  # torn
        if not sound:
            found = "another checksum"
            raise ConfigError(f"{path}: byte {offset}: expected a sound frame, found {found}")
        yield offset, payload
        offset += length


def _index(
    payload: bytes,
    offset: int,
    name_sets: dict[int, tuple[str, ...]],
    places: dict[str, dict[int, _Place]],
) -> None:
    """Take a payload that begins at ``offset`` into the index."""
    match payload[:1]:
        case b"N":
            _, number = _NAMES.unpack_from(payload)
            names = cast("list[str]", json.loads(payload[_NAMES.size :]))
            name_sets[number] = tuple(names)
        case b"V":
            _, number, step, size, key_length = _VALUES.unpack_from(payload)
            begin = _VALUES.size + key_length
            length = len(payload) - begin
            if size not in (_EXACT, _ROUNDED) or length != size * len(name_sets[number]):
                raise ValueError(f"{length} bytes for {len(name_sets[number])} names")
            key = payload[_VALUES.size : begin].decode()
            places.setdefault(key, {})[step] = _Place(number, offset + begin, size, length)
        case kind:
            raise ValueError(f"a frame of kind {kind!r}")
