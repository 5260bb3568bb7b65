"""Reads named arrays from an uncompressed ``.npz`` without trusting its content.

``numpy.load(allow_pickle=False)`` runs no code of a file, but it allocates what a header claims
before it reads (711 PiB for one of 80 bytes), unpacks whatever is compressed, passes over bytes
beyond the shape, leaves a damaged file open, and raises errors of a dozen kinds. Checksums do not
help: only groupings have one outside the file, and whoever changes both is to be refused, too.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from megadga.data.files import atomic_write
from megadga.errors import MegadgaError, ShardError

SUFFIX = ".npy"


ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip member can have; used for all, so that bytes are reproducible."""


_PREFIX = struct.Struct("<6sBBH")


_MAGIC = b"\x93NUMPY"


_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \((|\d{1,18},|\d{1,18}(?:, \d{1,18})+)\), \} *\n"
)


# All exceptions that zipfile raises for damaged archives.
_DAMAGE_ERRORS = (
    ArithmeticError,
    BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Expected type of one array.

    Attributes:
        dtypes: Allowed types in numpy's notation: ``"<i8"``, ``"|u1"``.
        ndim: Number of dimensions.
    """

    dtypes: tuple[str, ...]
    ndim: int


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to ``path`` atomically; equal arrays give equal bytes.

    Args:
        path: The final name; an existing file is replaced. Its folder must exist.
        arrays: Numeric arrays of any type and shape, by name.

    Raises:
        OSError: If it cannot be written.
        ValueError: If an array holds Python objects.
    """
    with atomic_write(path) as file:
        _write(file, arrays)


def array_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of the file that ``write_arrays`` writes.

    Raises:
        ValueError: If an array holds Python objects.
    """
    content = BytesIO()
    _write(content, arrays)
    return content.getvalue()


def _write(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = ZipInfo(f"{name}{SUFFIX}", date_time=ZIP_EPOCH)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def read_arrays(
    path: Path, specs: Mapping[str, ArraySpec], *, error: type[MegadgaError] = ShardError
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file after checking that they match the specification.

    Sizes are compared with the file size before anything is allocated, checksums while reading.

    Args:
        path: The file.
        specs: The expected arrays, by name.
        error: Exception class to raise for an invalid file.

    Returns:
        The arrays by name, read-only.

    Raises:
        MegadgaError: An ``error``, if the file is missing, damaged or compressed, or an array is
            missing, unknown, duplicated, of a wrong type, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            return _read_archive(file, specs)
    except _InvalidArchiveError as refused:
        raise error(f"{path}: {refused}") from None
    except FileNotFoundError as missing:
        raise error(f"{path}: expected an .npz, found {missing.strerror}") from missing
    except _DAMAGE_ERRORS as unsound:
        raise error(f"{path}: expected an uncompressed .npz, found {unsound!r}") from unsound


class _InvalidArchiveError(Exception):
    """The content of a readable archive is invalid; the caller adds the path."""


def _read_archive(file: BinaryIO, specs: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    size = file.seek(0, 2)
    with ZipFile(file) as archive:
        members = archive.infolist()
        expected = sorted(f"{name}{SUFFIX}" for name in specs)
        found = sorted(member.filename for member in members)
        if found != expected:
            raise _InvalidArchiveError(
                f"expected the members {expected}, found {str(found)[:200]}"
            )
        for member in members:
            if member.compress_type != ZIP_STORED or member.compress_size != member.file_size:
                raise _InvalidArchiveError(
                    f"{member.filename}: expected no compression, found some"
                )
        if (stated := sum(member.file_size for member in members)) > size:
            raise _InvalidArchiveError(f"expected members of {size} bytes at most, found {stated}")
        return {
            name: _read_member(archive, archive.getinfo(f"{name}{SUFFIX}"), spec)
            for name, spec in specs.items()
        }


def _read_member(archive: ZipFile, member: ZipInfo, spec: ArraySpec) -> NDArray[Any]:
    content = archive.read(member)  # its size was checked above; zipfile checks the CRC
    dtype, order, shape, offset = _parse_header(content, member.filename)
    if dtype not in spec.dtypes or len(shape) != spec.ndim:
        raise _InvalidArchiveError(
            f"{member.filename}: expected {' or '.join(spec.dtypes)} of {spec.ndim} dimensions, "
            f"found {dtype} of shape {shape}"
        )
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(content) - offset != expected:
        raise _InvalidArchiveError(
            f"{member.filename}: expected {expected} bytes for shape {shape}, "
            f"found {len(content) - offset}"
        )
    return np.ndarray(shape, np.dtype(dtype), content, offset, order=order)


def _parse_header(
    content: bytes, name: str
) -> tuple[str, Literal["C", "F"], tuple[int, ...], int]:
    """Return dtype, order and shape of an array, and the offset of its elements.

    The header is Python source, which numpy would evaluate. A regular expression that matches
    everything numpy writes avoids that.
    """
    if len(content) < _PREFIX.size:
        raise _InvalidArchiveError(f"{name}: expected an array, found {len(content)} bytes")
    magic, major, minor, length = _PREFIX.unpack_from(content)
    header = content[_PREFIX.size : _PREFIX.size + length]
    match = _HEADER.fullmatch(header)
    if (magic, major, minor) != (_MAGIC, 1, 0) or match is None:
        found = content[:80]
        raise _InvalidArchiveError(f"{name}: expected an array of numbers, found {found!r}")
    dtype, fortran, shape = match.groups()
    order: Literal["C", "F"] = "F" if fortran == b"True" else "C"
    dimensions = tuple(int(digits) for digits in re.findall(rb"\d+", shape))
    return dtype.decode(), order, dimensions, _PREFIX.size + length
