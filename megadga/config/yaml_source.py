"""Parses YAML, and JSON as its subset, with the file and line of every key."""

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megadga.config.validation import dotted
from megadga.errors import ConfigError
from megadga.section import ConfigIssue, KeyPath

_STRING_TAG = "tag:yaml.org,2002:str"


_SCALARS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"~|null|Null|NULL|", lambda _: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+(_[0-9]+)*", int),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
)


_MAX_DIGITS = 300
"""Limit for an integer literal, about the range of a float."""


_MAX_LEVELS = 64
"""Maximum nesting of brackets, as parsing time grows quadratically with it."""


def _plain(text: str) -> Any:
    """Return the value of an unquoted scalar: null, a boolean, a number, or a string."""
    for pattern, convert in _SCALARS:
        if re.fullmatch(pattern, text):
            return convert(text)
    return text


@dataclass(frozen=True)
class ConfigDocument:
    """Plain values (dict, list, str, int, float, bool, None) with their source locations.

    Args:
        values: The values.
        places: The location of each key.
        issues: Problems independent of the keys' meaning, such as duplicate keys.
        folders: Base folders of relative paths, at the root and at parts from other files.
    """

    values: Any
    places: dict[KeyPath, str]
    issues: tuple[ConfigIssue, ...] = ()
    folders: dict[KeyPath, Path] = field(default_factory=lambda: {(): Path()})

    def with_part(self, path: KeyPath, part: "ConfigDocument") -> "ConfigDocument":
        """Return this document with the value at ``path`` replaced by ``part``.

        Missing sections on the path are created.

        Args:
            path: A result of ``find``.
            part: The new value.
        """
        values = copy.deepcopy(self.values)
        places = {key: place for key, place in self.places.items() if key[: len(path)] != path}
        section = values
        for depth, name in enumerate(path[:-1], start=1):
            if not isinstance(_at(section, name), dict | list):
                section[name] = {}
                places[path[:depth]] = part.places[()]
            section = section[name]
        section[path[-1]] = part.values
        places |= {path + key: place for key, place in part.places.items()}
        folders = {key: each for key, each in self.folders.items() if key[: len(path)] != path}
        folders |= {path + key: each for key, each in part.folders.items()}
        issues = tuple(m for m in self.issues if m.path[: len(path)] != path)
        moved = (replace(m, path=path + m.path) for m in part.issues)
        return ConfigDocument(values, places, (*issues, *moved), folders)

    def find(self, key: str) -> KeyPath:
        """Return the path for a dotted key ``a.b.0``; numbers index lists.

        Raises:
            LookupError: If a list has no such item; one line.
        """
        path: list[str | int] = []
        here: Any = self.values
        for name in key.split("."):
            path.append(name if (size := _length(here)) is None else _index(size, name, path))
            here = _at(here, path[-1])
        return tuple(path)


def _length(value: Any) -> int | None:
    """Return the length of a list, None for other values."""
    return len(cast("list[Any]", value)) if isinstance(value, list) else None


def _index(size: int, name: str, path: Sequence[str | int]) -> int:
    index = int(name) if re.fullmatch("[0-9]{1,9}", name) else -1
    if not 0 <= index < size:
        expected = f"the number of one of {size} items, from 0"
        raise LookupError(f"{dotted(tuple(path))}: expected {expected}, found {name[:40]!r}")
    return index


def _at(section: Any, name: str | int) -> Any:
    """Return a section's value for a key, None if there is none."""
    try:
        return section[name]
    except (KeyError, IndexError, TypeError):
        return None


def read_file(path: Path) -> ConfigDocument:
    """Read a YAML or JSON file.

    Raises:
        ConfigError: If the file is missing or cannot be parsed; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file, found {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    if path.suffix == ".json":
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    return replace(parse(text, lambda line: f"{path}:{line}"), folders={(): path.parent})


def parse(text: str, place: Callable[[int], str]) -> ConfigDocument:
    """Parse YAML.

    Args:
        text: One document.
        place: Returns the location for a line number, counted from 1.

    Raises:
        ConfigError: If it is not valid YAML, or uses aliases or custom tags; one line.
    """
    reader = _Reader(place)
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place(mark.line + 1 if mark else 1)
        raise ConfigError(
            f"{where}: expected YAML, found a syntax error: {error.problem}"
        ) from None
    except yaml.reader.ReaderError as error:
        where = place(text.count("\n", 0, error.position) + 1)
        found = f"the character {chr(error.character)!r}"
        raise ConfigError(f"{where}: expected YAML, found {found}") from None
    except RecursionError:
        raise ConfigError(f"{place(1)}: expected YAML, found it nested too deeply") from None
    return ConfigDocument(values, {(): place(1)} | reader.places, tuple(reader.issues))


class _Loader(yaml.BaseLoader):
    """Keeps scalars as text, and limits the nesting of brackets."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803
        if self.flow_level >= _MAX_LEVELS:
            raise yaml.MarkedYAMLError(
                problem=f"brackets more than {_MAX_LEVELS} deep", problem_mark=self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)


class _Reader:
    """Converts composed nodes to values, and records the location of each key."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self.place = place
        self.places: dict[KeyPath, str] = {}
        self.issues: list[ConfigIssue] = []
        self.seen: set[int] = set()  # ids of nodes: an alias yields the same node again

    def read(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self.seen:
            raise _error(node, "a value with an alias, which is not supported")
        self.seen.add(id(node))
        match node:
            case MappingNode():
                return self._read_mapping(node, path)
            case SequenceNode():
                return [self._read_at(item, item, (*path, i)) for i, item in enumerate(node.value)]
            case ScalarNode(tag=tag) if tag == _STRING_TAG:
                return self._read_scalar(node)
            case _:
                raise _error(node, f"the tag {node.tag}, which is not supported")

    def _read_scalar(self, node: ScalarNode) -> Any:
        value = _text(node)
        if node.style:
            return value
        if len(value) > _MAX_DIGITS and re.fullmatch(r"[-+]?[0-9_]+", value):
            raise _error(node, f"a number of {len(value)} digits")
        return _plain(value)

    def _read_mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _error(key, "a key that is not a word")
            name = _text(key)
            if name in values:
                found = f"it in {self.places[(*path, name)]} as well"
                self.issues.append(ConfigIssue((*path, name), "each key once", found))
            values[name] = self._read_at(key, value, (*path, name))
        return values

    def _read_at(self, start: Node, node: Node, path: KeyPath) -> Any:
        self.places[path] = self._line(start)
        return self.read(node, path)

    def _line(self, node: Node) -> str:
        return self.place(node.start_mark.line + 1)


def _text(node: ScalarNode) -> str:
    """Return a scalar's text, rejecting escapes for characters that file names cannot have."""
    value: str = node.value
    for character in value:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise _error(node, f"the character {character!r}")
    return value


def _error(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that would otherwise be parsed as other types."""


def _represent(_: _Dumper, text: str) -> ScalarNode:
    return ScalarNode(_STRING_TAG, text, style=None if isinstance(_plain(text), str) else "'")


_Dumper.add_representer(str, _represent)


def dump(values: Any) -> str:
    """Return YAML that `parse` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=99)


def dump_line(values: Any) -> str:
    """Return the same on one line, for use after a key or in an override."""
    return yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
        default_flow_style=True,
    )
