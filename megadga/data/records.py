"""JSON objects with the keys and types of a dataclass, checked by pydantic; errors of one line."""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Text = Annotated[str, Field(strict=True)]


NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
"""A count: no bool, no float, not below 0."""


_TYPES: Mapping[str, str] = {
    "string_type": "str",
    "int_type": "int",
    "dict_type": "dict",
    "tuple_type": "a list",
    "dataclass_type": "dict",
}


_Record = TypeVar("_Record")


def parse_record(
    record: TypeAdapter[_Record],
    content: object,
    *,
    place: str,
    types: Mapping[str, str] | None = None,
) -> _Record:
    """Return what JSON holds as an object of a dataclass.

    Args:
        record: Of the dataclass, whose configuration forbids extra keys.
        content: What was parsed.
        place: What holds it, for messages: the file.
        types: How a message calls what pydantic expected, by its type of error.

    Raises:
        ValueError: If a key is missing or unknown, or a value of another type or out of range. It
            names the place, the first such key, what was expected and what was found, in a line.
    """
    try:
        return record.validate_python(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
    first, location = details[0], details[0]["loc"]
    if first["type"] in _KEYS:
        raise ValueError(_about_keys(details, content, place))
    if (expected := {**_TYPES, **(types or {})}.get(first["type"])) is None:  # the type is right
        raise ValueError(f"{_at(place, location)}{_about_value(first)}")
    if not location or isinstance(location[-1], int):
        expected = "an object" if expected == "dict" else expected
    elif first["type"] != "tuple_type":  # a field's key stands behind the object that lacks it
        place, location = _at(place, location[:-1]).removesuffix(": "), location[-1:]
    raise ValueError(
        f"{_at(place, location)}expected {expected}, found {describe(first['input'])}"
    )


def describe(value: object) -> str:
    """Return a value of JSON for a message, cut where it gets long."""
    return f"{type(value).__name__} {json.dumps(value)[:60]}"


_KEYS = ("missing", "unexpected_keyword_argument")


def _about_keys(details: Sequence[ErrorDetails], content: Any, place: str) -> str:
    """Return which keys of an object are missing, and which are unknown."""
    *parent, _ = details[0]["loc"]
    missing, unknown = (
        [str(d["loc"][-1]) for d in details if d["type"] == kind and [*d["loc"][:-1]] == parent]
        for kind in _KEYS
    )
    known = [key for key in reduce(getitem, parent, content) if key not in unknown]
    return (
        f"{_at(place, parent)}expected the keys {', '.join([*known, *missing])}, "
        f"found missing: {', '.join(sorted(missing)) or 'none missing'}, "
        f"unknown: {', '.join(map(_quote_key, sorted(unknown))) or 'none unknown'}"
    )


def _about_value(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "greater_than_equal":
            return f"expected at least {context['ge']}, found {detail['input']}"
        case "less_than_equal":
            return f"expected at most {context['le']}, found {detail['input']}"
        case "value_error":
            return str(context["error"])
        case _:
            return f"expected {detail['msg']}, found {describe(detail['input'])}"


def _at(place: str, location: Sequence[str | int]) -> str:
    parts = (f"[{key}]" if isinstance(key, int) else f".{_quote_key(key)}" for key in location)
    within = "".join(parts).removeprefix(".")
    return f"{place}: {within}: " if within else f"{place}: "


def _quote_key(key: str) -> str:
    return key if key.isidentifier() else repr(key)
