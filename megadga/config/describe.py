"""Tells a run key by key: value, meaning, default. Knows no key: fields describe themselves."""

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megadga.config.places import KeyPath, dotted, leaves


def describe(section: BaseModel, path: KeyPath = ()) -> Iterator[str]:
    """Yield the lines that explain a section: each key with its value, then what it means.

    Args:
        section: A run, or a part of one.
        path: The keys that lead to it.
    """
    for name, field in type(section).model_fields.items():
        yield from _describe_field((*path, name), field, getattr(section, name))


def _describe_field(path: KeyPath, field: FieldInfo, value: Any) -> Iterator[str]:
    meaning = " ".join((field.description or "").split())
    match value:
        case BaseModel():
            if "type" in type(value).model_fields:  # one of several: say which
                meaning = f"{meaning} {inspect.getdoc(type(value))}"
            yield from _entry(dotted(path), meaning)
            yield from describe(value, path)
        case dict() | tuple():
            yield from _entry(dotted(path), meaning)
            yield from _describe_parts(path, value)
        case _:
            default = "required" if field.is_required() else f"default {_plain(field.default)}"
            yield from _entry(f"{dotted(path)} = {_plain(value)}", f"{meaning} ({default})")


def _describe_parts(path: KeyPath, parts: Any) -> Iterator[str]:
    """Describe what has names or places of its own: domains, specific sets, weights, settings."""
    named = isinstance(parts, dict)
    entries = cast("dict[str, Any]", parts).items() if named else enumerate(parts)
    for name, value in entries:
        if isinstance(value, BaseModel):
            yield from describe(value, (*path, name))
        else:
            for inner, leaf in leaves(value, (*path, name)):
                yield f"{dotted(inner)} = {_plain(leaf)}"


def _entry(title: str, meaning: str) -> Iterator[str]:
    yield title
    yield from textwrap.wrap(meaning, width=96, initial_indent="    ", subsequent_indent="    ")


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
