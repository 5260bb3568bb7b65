"""Configuration errors: the source location of keys, expected and found values, suggestions."""

import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from megadga.errors import ConfigError
from megadga.section import ConfigIssue, KeyPath, dotted, format_value


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and value of everything that is not a non-empty mapping."""
    if isinstance(value, Mapping) and value:
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


@dataclass(frozen=True)
class SourceMap:
    """Source location, file and line or override, of every key.

    Excluded from comparisons: configurations with equal values are equal.

    Args:
        by_path: Location of each key, as ``{("mixing", "ema"): "run.yaml:12"}``; the root's is
            used for missing keys. Empty for values that do not come from a file.
    """

    by_path: Mapping[KeyPath, str] = field(default_factory=dict[KeyPath, str], compare=False)

    def location(self, path: KeyPath) -> str:
        """Return the location of a key or its closest enclosing section, empty if unknown."""
        return self.by_path.get(self._closest(path), "")

    def contains(self, path: KeyPath) -> bool:
        """Return whether a key was set."""
        return path in self.by_path

    def _closest(self, path: KeyPath) -> KeyPath:
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((section for section in around if section in self.by_path), ())

    def format_issue(self, issue: ConfigIssue) -> str:
        """Return an issue as one line: location, key, expected and found values."""
        parts = (self.location(issue.path), dotted(issue.path))
        line = ": ".join(part for part in parts if part)
        line = f"{line}: expected {issue.expected}, found {issue.found}"
        return f"{line}; did you mean {issue.hint}?" if issue.hint else line

    def error(self, issues: Sequence[ConfigIssue]) -> ConfigError:
        """Return an error with one line per issue, in the order of the source text."""
        order = {path: index for index, path in enumerate(self.by_path)}

        def written(issue: ConfigIssue) -> int:
            return order.get(self._closest(issue.path), 0)

        return ConfigError("\n".join(map(self.format_issue, sorted(issues, key=written))))


def sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the sections that a field's type allows, in order.

    Excludes extensions, whose keys and ``type`` are unknown.
    """
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        named = annotation.model_fields.get("type")
        return () if named is not None and named.annotation is str else (annotation,)
    return tuple(section for part in get_args(annotation) for section in sections_in(part))


def type_name(section: type[BaseModel]) -> str:
    """Return the value of ``type`` that selects a section in a union."""
    return str(get_args(section.model_fields["type"].annotation)[0])


def _tag(section: type[BaseModel]) -> str:
    """Return a section's tag in pydantic's locations: its type, or else its first key."""
    fields = section.model_fields
    return type_name(section) if "type" in fields else f"<{next(iter(fields))}>"


def follow(
    root: type[BaseModel], location: KeyPath
) -> tuple[KeyPath, tuple[type[BaseModel], ...]]:
    """Resolve a location from pydantic, which has union tags between the keys.

    Args:
        root: The section that was validated.
        location: From the root. A tag is a value of ``type`` or in angle brackets; without tags
            all sections of a union are candidates.

    Returns:
        The path without tags, and the candidate sections at that path.
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
            sections = ()  # not a section: a name, or a mapping with arbitrary keys
        else:
            sections = tagged or below or sections
    return tuple(path), sections


def all_keys(section: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every possible key of a section, over all alternatives of unions."""
    for name, info in section.model_fields.items():
        yield (*path, name)
        for inner in sections_in(info.annotation):
            yield from all_keys(inner, (*path, name))


_Section = TypeVar("_Section", bound=BaseModel)


def resolve_paths(section: _Section, folders: Mapping[KeyPath, Path]) -> _Section:
    """Return a section with its relative paths resolved.

    Args:
        section: A run, or a part of one.
        folders: Base folder of each key or of its closest enclosing section.
    """
    return map_paths(section, lambda key, path: resolve_path(_closest(key, folders), path))


def map_paths(
    section: _Section, change: Callable[[KeyPath, Path], Path], key: KeyPath = ()
) -> _Section:
    """Return a section with a function applied to every path in it.

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


def resolve_path(folder: Path, path: Path) -> Path:
    """Return a path relative to a folder, normalised if that does not change its meaning."""
    whole = folder / path
    if ".." not in whole.parts:
        return whole
    short = Path(os.path.normpath(whole))
    try:  # with symbolic links, removing ".." may change the meaning
        return short if os.path.realpath(short) == os.path.realpath(whole) else whole
    except (OSError, ValueError):
        return whole


class FolderOrHubId(str):
    """A folder, or the name of a model on Hugging Face's hub; `resolve_paths` decides.

    It is a folder if one is there, or if it is not written as such a name (``owner/model``).
    """

    __slots__ = ()
    _NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)

    def resolved(self, resolve: Callable[[Path], Path]) -> str:
        """Return the folder's absolute path, or the name.

        Args:
            resolve: Returns a relative path's place.
        """
        folder = resolve(Path(self))
        if not folder.is_dir() and self._NAME.fullmatch(self):
            return str(self)
        return str(folder.absolute())


def _closest(key: KeyPath, folders: Mapping[KeyPath, Path]) -> Path:
    around = (key[:length] for length in range(len(key), -1, -1))
    return next(folders[section] for section in around if section in folders)


def _changed(value: Any, change: Callable[[KeyPath, Path], Path], key: KeyPath) -> Any:
    match value:
        case Path():
            return change(key, value)
        case FolderOrHubId():
            return value.resolved(lambda path: change(key, path))
        case BaseModel():
            return map_paths(value, change, key)
        case dict():
            parts = cast("dict[str, Any]", value)
            return {name: _changed(part, change, (*key, name)) for name, part in parts.items()}
        case list() | tuple() if type(cast("Any", value)) in (list, tuple):  # no named tuples
            items = cast("list[Any]", value)
            return type(items)(_changed(item, change, (*key, at)) for at, item in enumerate(items))
        case _:
            return value


SIMILARITY_CUTOFF = 0.75
"""Minimum similarity (difflib's ratio) for a suggestion."""


def validation_error(issues: Sequence[ConfigIssue]) -> PydanticCustomError:
    """Return an exception for validators that reports issues at arbitrary keys."""
    text = "; ".join(f"{dotted(m.path)}: expected {m.expected}, found {m.found}" for m in issues)
    return PydanticCustomError("issues", "{text}", {"text": text, "issues": tuple(issues)})


def issues_from_validation(error: ValidationError, root: type[BaseModel]) -> Iterator[ConfigIssue]:
    """Yield the issues of a pydantic validation error in the section ``root``."""
    for detail in error.errors(include_url=False):
        context = detail.get("ctx", {})
        path, sections = follow(root, detail["loc"])
        match detail["type"]:
            case "issues":
                yield from context["issues"]
            case "model_type" | "dict_type":
                yield ConfigIssue(path, "a mapping", format_value(detail["input"]))
            case "path_type":
                yield ConfigIssue(path, "a path", format_value(detail["input"]))
            case "missing":
                yield ConfigIssue(path, "a value", "nothing")
            case "extra_forbidden":
                yield _unknown_key(path, root, sections)
            case "union_tag_invalid":
                yield choice_issue((*path, "type"), map(type_name, sections), context["tag"])
            case "union_tag_not_found":
                yield choice_issue((*path, "type"), map(type_name, sections), None)
            case "literal_error":
                yield choice_issue(
                    path, re.findall(r"'(.*?)'", context["expected"]), detail["input"]
                )
            case _:
                yield _other(path, detail)


def _other(path: KeyPath, detail: ErrorDetails) -> ConfigIssue:
    if detail["type"] in ("value_error", "assertion_error"):  # of an extension's own validators
        found = f"{format_value(detail['input'])} ({detail.get('ctx', {})['error']})"
        return ConfigIssue(path, "what the extension accepts", found)
    expected = detail["msg"].removeprefix("Input should be ")
    expected = re.sub(r"^(greater|less) than", r"a number \1 than", expected)
    return ConfigIssue(
        path, expected, detail.get("ctx", {}).get("found", format_value(detail["input"]))
    )


def choice_issue(path: KeyPath, choices: Iterable[str], found: object) -> ConfigIssue:
    """Return the issue for a value that is not among the choices; None: it is missing."""
    names = list(choices)
    close = get_close_matches(str(found), names, n=1)
    listed = " or ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))
    return ConfigIssue(
        path,
        expected=listed,
        found="nothing" if found is None else format_value(found),
        hint=repr(close[0]) if close else "",
    )


def _unknown_key(
    path: KeyPath, root: type[BaseModel], sections: Sequence[type[BaseModel]]
) -> ConfigIssue:
    """Suggest the closest key of the section or its alternatives, or the same key elsewhere."""
    key = str(path[-1])
    _, alternatives = follow(root, path[:-1])
    siblings, others = _fields(sections), _fields(alternatives)
    having = (s for s in alternatives if {key, "type"} <= s.model_fields.keys())
    types = dict.fromkeys(map(type_name, having))  # a section may be reached in several ways
    close = get_close_matches(key, siblings, n=1, cutoff=SIMILARITY_CUTOFF)
    if key not in others:
        close = close or get_close_matches(key, others, n=1, cutoff=SIMILARITY_CUTOFF)
        close = close or [dotted(other) for other in all_keys(root) if other[-1] == key]
    return ConfigIssue(
        path,
        expected="a known key" if close else f"one of {', '.join(siblings)}",
        found=f"{key!r}, a key of type {' or '.join(dict.fromkeys(types))}"
        if types
        else repr(key),
        hint=" or ".join(map(repr, dict.fromkeys(close))),
    )


def _fields(sections: Iterable[type[BaseModel]]) -> list[str]:
    return sorted({name for section in sections for name in section.model_fields})


def describe(section: BaseModel, path: KeyPath = ()) -> Iterator[str]:
    """Yield lines that describe a section: each key with its value, followed by its docstring.

    Args:
        section: A run, or a part of one.
        path: The keys that lead to it.
    """
    for name, info in type(section).model_fields.items():
        yield from _describe_field((*path, name), info, getattr(section, name))


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
    """Describe mappings and lists: domains, specific sets, weights, settings."""
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
