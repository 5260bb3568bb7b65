"""The keys that sections have, found from their types. Knows no section in particular."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from megadga.config.places import KeyPath


def sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the sections that a field's type allows, in the order of the type.

    Those of extensions are none of them: their keys, and their ``type``, are not known here.
    """
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        named = annotation.model_fields.get("type")
        return () if named is not None and named.annotation is str else (annotation,)
    return tuple(section for part in get_args(annotation) for section in sections_in(part))


def type_name(section: type[BaseModel]) -> str:
    """Return the value of ``type`` that selects a section among others."""
    return str(get_args(section.model_fields["type"].annotation)[0])


def _tag(section: type[BaseModel]) -> str:
    """Return what a location has for a section among others: its type, or else its first key."""
    fields = section.model_fields
    return type_name(section) if "type" in fields else f"<{next(iter(fields))}>"


def follow(
    root: type[BaseModel], location: KeyPath
) -> tuple[KeyPath, tuple[type[BaseModel], ...]]:
    """Follow a location as pydantic gives it, with tags of unions between the keys.

    Args:
        root: The section that was validated.
        location: From the root. A tag is a value of ``type``, or stands in angle brackets; without
            tags, the sections are all that may stand there.

    Returns:
        The path as it is written, without tags, and the sections that may stand there.
    """
    path: list[str | int] = []
    sections = (root,)
    for part in location:
        below = tuple(
            inner
            for section in sections
            if part in section.model_fields
            for inner in sections_in(section.model_fields[str(part)].annotation)
        )
        tagged = tuple(s for s in sections if len(sections) > 1 and _tag(s) == part)
        if not tagged and not (isinstance(part, str) and part.startswith("<")):
            path.append(part)
        if len(sections) > 1 and not tagged and isinstance(part, str) and part.startswith("<"):
            sections = ()  # a form that is no section: a name, or a mapping with keys of its own
        else:
            sections = tagged or below or sections
    return tuple(path), sections


def all_keys(section: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key that a section may have, whatever the types chosen in it."""
    for name, field in section.model_fields.items():
        yield (*path, name)
        for inner in sections_in(field.annotation):
            yield from all_keys(inner, (*path, name))
