"""Which folder the paths of a run lie under. Knows no key: a path is told by its type."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from megadga.config.places import KeyPath

_Section = TypeVar("_Section", bound=BaseModel)


def under_folders(section: _Section, folders: Mapping[KeyPath, Path]) -> _Section:
    """Return a section with its relative paths under the folders that they are relative to.

    Args:
        section: A run, or a part of one.
        folders: Folder of each key, or of the closest section around it.
    """
    return with_paths(section, lambda key, path: under(_closest(key, folders), path))


def with_paths(
    section: _Section, change: Callable[[KeyPath, Path], Path], key: KeyPath = ()
) -> _Section:
    """Return a section with every path in it changed.

    Args:
        section: A run, or a part of one.
        change: Called with a path's key and the path.
        key: The keys that lead to the section.
    """
    changed = {
        name: _changed(getattr(section, name), change, (*key, name))
        for name in type(section).model_fields
    }
    return section.model_copy(update=changed)


def under(folder: Path, path: Path) -> Path:
    """Return a path that is relative to a folder, as short as it can be told."""
    whole = folder / path
    if ".." not in whole.parts:
        return whole
    short = Path(os.path.normpath(whole))
    try:  # a link on the way leads elsewhere than its name says
        return short if os.path.realpath(short) == os.path.realpath(whole) else whole
    except (OSError, ValueError):
        return whole


def _closest(key: KeyPath, folders: Mapping[KeyPath, Path]) -> Path:
    around = (key[:length] for length in range(len(key), -1, -1))
    return next(folders[section] for section in around if section in folders)


def _changed(value: Any, change: Callable[[KeyPath, Path], Path], key: KeyPath) -> Any:
    match value:
        case Path():
            return change(key, value)
        case BaseModel():
            return with_paths(value, change, key)
        case dict():
            parts = cast("dict[str, Any]", value)
            return {name: _changed(part, change, (*key, name)) for name, part in parts.items()}
        case list():
            items = cast("list[Any]", value)
            return [_changed(item, change, (*key, at)) for at, item in enumerate(items)]
        case tuple() if type(value) is tuple:  # pyright: ignore[reportUnknownArgumentType]
            items = cast("tuple[Any, ...]", value)
            return tuple(_changed(item, change, (*key, at)) for at, item in enumerate(items))
        case _:
            return value
