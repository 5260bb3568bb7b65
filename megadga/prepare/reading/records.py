"""What a record must hold, what makes one bad, and how many bad ones are too many."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeGuard, TypeVar, cast, final

from megadga.errors import ConfigError

MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class MaxBad:
    """The most bad records that may be left out.

    Attributes:
        count: Records, at least 0; None: any number.
        share: Of all records, in [0, 1].
    """

    count: int | None = 0
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"100"`` or ``"0.1%"``.

        Raises:
            ConfigError: If it is neither.
        """
        number = text.removesuffix("%")
        if text.isdecimal() and len(text) <= MAX_DIGITS:
            return cls(int(text))
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) <= 100.0:
            return cls(None, float(number) / 100.0)
        raise ConfigError(
            f"max_bad: expected a number or a share such as 0.1%, found {text[:80]!r}"
        )

    def __str__(self) -> str:
        """Return what ``parse`` reads."""
        return f"{100.0 * self.share:g}%" if self.count is None else str(self.count)

    def exceeded(self, num_bad: int, num_records: int, *, complete: bool) -> bool:
        """Return whether so many are too many.

        Args:
            num_bad: Bad records so far.
            num_records: Records so far.
            complete: Whether these are all; a share says something only then.
        """
        if self.count is not None:
            return num_bad > self.count
        return complete and num_bad > self.share * num_records


@final
class BadRecords:
    """Counts the records that are left out while documents are read, and stops at too many.

    A build lists them instead (``pipeline.rejects``): it goes on later, and others here do not.

    Args:
        max_bad: How many are too many.
    """

    def __init__(self, max_bad: MaxBad = MaxBad()) -> None:
        self._max_bad = max_bad
        self._first: str | None = None
        self._num_bad = self._num_records = 0

    def add(self, file: Path, line: int, reason: str) -> None:
        """Count a bad record.

        Raises:
            ConfigError: If there are too many now; names the first.
        """
        self._num_records += 1
        self._num_bad += 1
        self._first = self._first or f"{file}:{line}: {reason}"
        self._check(complete=False)

    def add_good(self) -> None:
        """Count a record that is not bad."""
        self._num_records += 1

    def check_all(self) -> None:
        """Check the count once nothing is left to read: a share says something only then.

        Raises:
            ConfigError: If there were too many; names the first.
        """
        self._check(complete=True)

    def describe(self) -> Iterator[str]:
        """Yield a line on what was left out, if something was."""
        if self._first is not None:
            yield (
                f"left out {self._num_bad:,} of {self._num_records:,} records, "
                f"the first: {self._first}"
            )

    def _check(self, *, complete: bool) -> None:
        if self._max_bad.exceeded(self._num_bad, self._num_records, complete=complete):
            assert self._first is not None, "none is not too many"
            if self._num_bad == 1:
                raise ConfigError(self._first)
            raise ConfigError(
                f"{self._first}; found {self._num_bad:,} bad records among {self._num_records:,}, "
                f"expected at most max_bad = {self._max_bad}"
            )


SourceT = TypeVar("SourceT")


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What editors of Windows write in front of UTF-8; no part of the text."""


MAX_DOMAIN_BYTES = 200  # a file system takes 255; some are left for what is written beside it


FOLDER_NAME = (
    'a name for a folder, of printable characters, without "/", no "." at its beginning, of 1 to '
    f"{MAX_DOMAIN_BYTES} bytes"
)


_RESERVED = frozenset(("manifest.json",))  # by which a folder of domains is told from a domain's


_SPACE = re.compile(r"[\ufeff\s]*")


_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """Where a record has what is read of it.

    A key with dots goes into nested objects, ``meta.source``; a field that is called so, dots
    included, comes first.

    Attributes:
        text: Of the text, a string.
        id: Of the id, a string or an integer; None: ids are not read.
        domain: Of the domain's name, a string; None: the domain follows from the file.
    """

    text: str = "text"
    id: str | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One good record.

    Attributes:
        text: Not only white space, unless where it comes from says otherwise.
        position: Where the record is in its file, however that is cut: the offset of its line in
            bytes, decompressed; the number of its row, from 0; 0 if it is the whole file.
        line: The number of its line, from 1 where its span begins; of its row, from 1 where its
            file begins; 1 if it is the whole file.
        id: None if ids are not read; an integer in decimal.
        domain: None if domains are not read; fit to name a folder.
        input_bytes: How far reading it has moved on in its file, in bytes on the disk.
    """

    text: str
    position: int
    line: int
    id: str | None
    domain: str | None
    input_bytes: int


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """One bad record.

    Attributes:
        position: As a document's.
        line: As a document's.
        reason: What was expected and what was found, one line.
        empty: Whether all that is wrong is a text of nothing or of white space.
        input_bytes: As a document's.
    """

    position: int
    line: int
    reason: str
    empty: bool
    input_bytes: int


@dataclass(frozen=True, slots=True)
class SpanEnd:
    """What remains to be said after the last record of a span.

    Attributes:
        num_lines: Lines of the span, blank ones too; its rows; 1 if it is one document.
        input_bytes: Bytes on the disk after the last record.
    """

    num_lines: int
    input_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """What was read of a record, all of it checked; attributes as a document's."""

    text: str
    id: str | None
    domain: str | None


class RecordError(Exception):
    """A record is bad. Never leaves this package: it becomes a ``InvalidRecord``.

    Args:
        reason: What was expected and what was found, one line.
        empty: Whether all that is wrong is a text of nothing or of white space.
    """

    def __init__(self, reason: str, *, empty: bool = False) -> None:
        super().__init__(reason)
        self.empty = empty


def make_record(
    parse: Callable[[SourceT, Keys], Content],
    source: SourceT,
    keys: Keys,
    *,
    position: int,
    line: int,
    input_bytes: int,
) -> Document | InvalidRecord:
    """Return what ``parse`` makes of ``source``: a document, or a reject if it raises."""
    try:
        content = parse(source, keys)
    except RecordError as error:
        return InvalidRecord(position, line, str(error), error.empty, input_bytes)
    return Document(content.text, position, line, content.id, content.domain, input_bytes)


def parse_file(content: bytes, keys: Keys) -> Content:
    """Return a whole file's content as one document.

    Raises:
        RecordError: If it is not UTF-8, has no text, or holds records as JSON that is not one
            object per line, or if an id or a domain is to be read.
    """
    for key in (keys.id, keys.domain):
        if key is not None:
            raise RecordError(f"{key}: expected a record with fields, found a file of mere text")
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"expected UTF-8 text, found {error}") from error
    _check_no_records(text, keys.text)
    return Content(_check_not_blank(text, "expected text"), None, None)


def parse_line(line: bytes, keys: Keys) -> Content:
    """Return what a line of JSON holds.

    Raises:
        RecordError: If the line is not one JSON object in UTF-8, or as ``check_content``.
    """
    try:
        # RecursionError: deep nesting. ValueError: UnicodeDecodeError is one, too.
        content: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"expected one JSON object, found {error}") from error
    if not _is_object(content):
        raise RecordError(f"expected a JSON object, found {_kind(content)}")
    return check_content(
        _find(content, keys.text, "a string"),
        None if keys.id is None else _find(content, keys.id, "a string or an integer"),
        None if keys.domain is None else _find(content, keys.domain, "a string"),
        keys,
    )


def check_content(text: object, id_: object, domain: object, keys: Keys) -> Content:
    """Return what was found under the keys as a record's content.

    Args:
        text: Anything.
        id_: Anything; not looked at if ``keys.id`` is None.
        domain: Anything; not looked at if ``keys.domain`` is None.
        keys: Where the values were found, for the reasons.

    Raises:
        RecordError: If one of them has the wrong type or is not Unicode, the domain cannot name a
            folder, or the text is empty or white space.
    """
    checked_id = None if keys.id is None else _check_id(id_, keys.id)
    checked_domain = None if keys.domain is None else _check_domain(domain, keys.domain)
    checked_text = _check_string(text, keys.text)
    # The last check: then nothing else is wrong.
    _check_not_blank(checked_text, f"{keys.text}: expected text")
    return Content(checked_text, checked_id, checked_domain)


def is_folder_name(name: str) -> bool:
    """Return whether a domain can be called so: see ``FOLDER_NAME``.

    Names are written into files that have one per line, and on terminals: of what cannot be
    printed, a line break ends a name, and half a surrogate pair, as names of files that are no
    UTF-8 have, cannot be written at all.
    """
    return (
        name.isprintable()  # which surrogates are not
        and 1 <= len(name.encode()) <= MAX_DOMAIN_BYTES
        and "/" not in name
        and not name.startswith(".")
        and name not in _RESERVED
    )


def format_field_names(names: Iterable[str]) -> str:
    """Return names in one line, a few of them, long and unprintable ones cut and escaped."""
    shown = [_show(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if shown[8:] else "") or "none"


def _check_no_records(text: str, key: str) -> None:
    """Check that a text is not records in JSON; one object without a text is a text itself."""
    values = _json_values(text)
    if not values:
        return
    first, key = values[0], key.partition(".")[0]
    if len(values) > 1:
        found = f"{len(values)} JSON values over several lines"
    elif isinstance(first, list):
        found = "a JSON array"
    elif _is_object(first) and (key in first or any(_has_key(one, key) for one in first.values())):
        found = "a JSON object over several lines"
    else:
        return
    raise RecordError(f"expected text or JSON lines, found {found}: write one object per line")


def _json_values(text: str) -> list[object]:
    """Return the arrays and objects that a text is made of; none if there is more to it."""
    values: list[object] = []
    decoder, place = json.JSONDecoder(), _after_space(text, 0)
    while place < len(text):
        if text[place] not in "[{":
            return []
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        place = _after_space(text, end)
    return values


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None, "it matches nothing, too"
    return found.end()


def _has_key(value: object, key: str) -> bool:
    """Return whether a value is an array of objects with a key."""
    if not isinstance(value, list) or not value:
        return False
    first = cast("list[object]", value)[0]
    return _is_object(first) and key in first


def _find(fields: Mapping[str, object], key: str, expected: str) -> object:
    if key in fields:
        return fields[key]
    value: object = fields
    above: list[str] = []
    for part in key.split("."):
        if not _is_object(value):
            raise RecordError(
                f"{key}: expected an object at {'.'.join(above)}, found {_kind(value)}"
            )
        if part not in value:
            place = f" in {'.'.join(above)}" if above else ""
            raise RecordError(
                f"{key}: expected {expected}, found only {format_field_names(value)}{place}"
            )
        value = value[part]
        above.append(part)
    return value


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _check_string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{key}: expected a string, found {_kind(value)}")
    if not value.isascii():  # known already, whereas encoding takes time
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
            raise RecordError(f"{key}: expected Unicode text, found {error}") from error
    return value


def _check_not_blank(text: str, expected: str) -> str:
    if not text or text.isspace():
        found = "white space alone" if text else "none"
        raise RecordError(f"{expected}, found {found}", empty=True)
    return text


def _check_id(value: object, key: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # as many digits as JSON was read with, so never too many
    if not isinstance(value, str):
        raise RecordError(f"{key}: expected a string or an integer, found {_kind(value)}")
    return _check_string(value, key)


def _check_domain(value: object, key: str) -> str:
    name = _check_string(value, key)
    if not is_folder_name(name):
        raise RecordError(f"{key}: expected {FOLDER_NAME}, found {_show(name) or 'none'}")
    return name


def _kind(value: object) -> str:
    return _KINDS[type(value)]


def _show(name: str) -> str:
    cut = name if len(name) <= 40 else f"{name[:40]}..."
    return cut if cut.isprintable() else ascii(cut)
