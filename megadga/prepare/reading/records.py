"""Validates records, and limits the number of invalid ones."""

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
    """The limit of invalid records.

    Attributes:
        count: Maximum number, at least 0; None: unlimited.
        share: Maximum fraction of all records, in [0, 1].
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
        """Return whether the limit is exceeded.

        Args:
            num_bad: Invalid records so far.
            num_records: Records so far.
            complete: Whether all records were counted; the fraction is checked only then.
        """
        if self.count is not None:
            return num_bad > self.count
        return complete and num_bad > self.share * num_records


@final
class BadRecords:
    """Counts invalid records while documents are read, and raises if there are too many.

    A build, which can be resumed, lists them in a file instead.

    Args:
        max_bad: The limit.
    """

    def __init__(self, max_bad: MaxBad = MaxBad()) -> None:
        self._max_bad = max_bad
        self._first: str | None = None
        self._num_bad = self._num_records = 0

    def add(self, file: Path, line: int, reason: str) -> None:
        """Count an invalid record.

        Raises:
            ConfigError: If there are too many; names the first.
        """
        self._num_records += 1
        self._num_bad += 1
        self._first = self._first or f"{file}:{line}: {reason}"
        self._check(complete=False)

    def add_good(self) -> None:
        """Count a valid record."""
        self._num_records += 1

    def check_all(self) -> None:
        """Check the limit after all records were read.

        Raises:
            ConfigError: If there were too many; names the first.
        """
        self._check(complete=True)

    def describe(self) -> Iterator[str]:
        """Yield a line about skipped records, if there are any."""
        if self._first is not None:
            yield (
                f"skipped {self._num_bad:,} of {self._num_records:,} records, "
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
"""Written at the start of UTF-8 files by some Windows editors; not part of the text."""


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
    """Keys of a record's fields.

    A dotted key refers to nested objects, ``meta.source``; a field with exactly that name takes
    precedence.

    Attributes:
        text: Key of the text, a string; of a dialogue, of its messages.
        id: Key of the id, a string or an integer; None: ids are not read.
        domain: Key of the domain's name, a string; None: the file determines the domain.
        chat: Whether records are dialogues (see ``dialogues``).
    """

    text: str = "text"
    id: str | None = None
    domain: str | None = None
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A valid record.

    Attributes:
        text: Not blank, unless documented otherwise by the source; of a dialogue, JSON.
        position: Its position in the file, independent of spans: the byte offset of its line after
            decompression, or the index of its row; 0 for a whole file.
        line: Its line number, from 1 at the start of the span; its row number, from 1 at the start
            of the file; 1 for a whole file.
        id: Its id, integers as decimal text; None if ids are not read.
        domain: Its domain, a valid folder name; None if domains are not read.
        input_bytes: Bytes on disk consumed by reading it.
    """

    text: str
    position: int
    line: int
    id: str | None
    domain: str | None
    input_bytes: int


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """An invalid record.

    Attributes:
        position: As for ``Document``.
        line: As for ``Document``.
        reason: What was expected and what was found, one line.
        empty: Whether the only problem is a blank text.
        input_bytes: As for ``Document``.
    """

    position: int
    line: int
    reason: str
    empty: bool
    input_bytes: int


@dataclass(frozen=True, slots=True)
class SpanEnd:
    """Marks the end of a span.

    Attributes:
        num_lines: Number of lines of the span, blank ones included, or of rows; 1 for a whole
            file.
        input_bytes: Bytes on disk after the last record.
    """

    num_lines: int
    input_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """The validated fields of a record; see ``Document``."""

    text: str
    id: str | None
    domain: str | None


class RecordError(Exception):
    """A record is invalid; converted to ``InvalidRecord`` inside this package.

    Args:
        reason: What was expected and what was found, one line.
        empty: Whether the only problem is a blank text.
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
    for key in (keys.id, keys.domain, keys.text if keys.chat else None):
        if key is not None:
            raise RecordError(f"{key}: expected a record with fields, found a plain text file")
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"expected UTF-8 text, found {error}") from error
    _check_no_records(text, keys.text)
    return Content(_check_not_blank(text, "expected text"), None, None)


def parse_line(line: bytes, keys: Keys) -> Content:
    """Return the content of a line of JSON.

    Raises:
        RecordError: If the line is not one JSON object in UTF-8, or as ``check_content``.
    """
    content = load_object(line)
    return check_content(
        find_field(content, keys.text, "a string"), *find_fields(content, keys), keys
    )


def load_object(line: bytes) -> dict[str, object]:
    """Return the object in a line of JSON.

    Raises:
        RecordError: If the line is not one JSON object in UTF-8.
    """
    try:
        # RecursionError: deep nesting. ValueError: UnicodeDecodeError is one, too.
        content: object = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"expected one JSON object, found {error}") from error
    if not is_object(content):
        raise RecordError(f"expected a JSON object, found {kind_of(content)}")
    return content


def find_fields(content: Mapping[str, object], keys: Keys) -> tuple[object, object]:
    """Return what is found under the keys of id and domain, None for those that are not read.

    Raises:
        RecordError: If there is none.
    """
    return (
        None if keys.id is None else find_field(content, keys.id, "a string or an integer"),
        None if keys.domain is None else find_field(content, keys.domain, "a string"),
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
    # Checked last, so that `empty` means that nothing else is wrong.
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
    """Return up to eight names in one line, truncated and escaped where necessary."""
    shown = [_show(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if shown[8:] else "") or "none"


def _check_no_records(text: str, key: str) -> None:
    """Check that a text file does not contain JSON records; other JSON is accepted as text."""
    values = _json_values(text)
    if not values:
        return
    first, key = values[0], key.partition(".")[0]
    if len(values) > 1:
        found = f"{len(values)} JSON values over several lines"
    elif isinstance(first, list):
        found = "a JSON array"
    elif is_object(first) and (key in first or any(_has_key(one, key) for one in first.values())):
        found = "a JSON object over several lines"
    else:
        return
    raise RecordError(f"expected text or JSON lines, found {found}: write one object per line")


def _json_values(text: str) -> list[object]:
    """Return the JSON arrays and objects of a text, empty if it contains anything else."""
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
    return is_object(first) and key in first


def find_field(fields: Mapping[str, object], key: str, expected: str) -> object:
    """Return what is found under a key, perhaps a dotted one.

    Raises:
        RecordError: If there is none; names what there is.
    """
    if key in fields:
        return fields[key]
    value: object = fields
    above: list[str] = []
    for part in key.split("."):
        if not is_object(value):
            raise RecordError(
                f"{key}: expected an object at {'.'.join(above)}, found {kind_of(value)}"
            )
        if part not in value:
            place = f" in {'.'.join(above)}" if above else ""
            raise RecordError(
                f"{key}: expected {expected}, found only {format_field_names(value)}{place}"
            )
        value = value[part]
        above.append(part)
    return value


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value of JSON is an object."""
    return isinstance(value, dict)


def _check_string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{key}: expected a string, found {kind_of(value)}")
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
        raise RecordError(f"{key}: expected a string or an integer, found {kind_of(value)}")
    return _check_string(value, key)


def _check_domain(value: object, key: str) -> str:
    name = _check_string(value, key)
    if not is_folder_name(name):
        raise RecordError(f"{key}: expected {FOLDER_NAME}, found {_show(name) or 'none'}")
    return name


def kind_of(value: object) -> str:
    """Return what a value of JSON is called in a message."""
    return _KINDS[type(value)]


def _show(name: str) -> str:
    cut = name if len(name) <= 40 else f"{name[:40]}..."
    return cut if cut.isprintable() else ascii(cut)
