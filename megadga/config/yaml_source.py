"""Reads YAML, and JSON as its subset, into values that carry their file and line."""

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


_MOST_DIGITS = 300
"""Of a whole number: a float holds no more."""


_MOST_LEVELS = 64
"""Brackets inside each other: reading them takes time that grows with the square."""


def _plain(text: str) -> Any:
    """Return what unquoted text means: null, a truth value, a number, or itself."""
    for pattern, convert in _SCALARS:
        if re.fullmatch(pattern, text):
            return convert(text)
    return text


@dataclass(frozen=True)
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and what is known of their writing.

    Args:
        values: What the text says.
        places: Where it says so.
        mistakes: What is wrong with the writing whatever the keys mean, such as a key given twice.
        folders: What paths are relative to, at the root and at parts that came from elsewhere.
    """

    values: Any
    places: dict[KeyPath, str]
    issues: tuple[ConfigIssue, ...] = ()
    folders: dict[KeyPath, Path] = field(default_factory=lambda: {(): Path()})

    def with_part(self, path: KeyPath, part: "Document") -> "Document":
        """Return this document with ``part`` in the place of whatever is at ``path``, if anything.

        What lies on the way and is no section becomes one.

        Args:
            path: As ``find`` returns it.
            part: What is to be there.
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
        return Document(values, places, (*issues, *moved), folders)

    def find(self, key: str) -> KeyPath:
        """Return the path that ``a.b.0`` names here; a number is an index where a list is.

        Raises:
            LookupError: If an item of a list is named that is not there; says so in one line.
        """
        path: list[str | int] = []
        here: Any = self.values
        for name in key.split("."):
            path.append(name if (size := _length(here)) is None else _index(size, name, path))
            here = _at(here, path[-1])
        return tuple(path)


def _length(value: Any) -> int | None:
    """Return how many items a list has; None: it is no list."""
    return len(cast("list[Any]", value)) if isinstance(value, list) else None


def _index(size: int, name: str, path: Sequence[str | int]) -> int:
    index = int(name) if re.fullmatch("[0-9]{1,9}", name) else -1
    if not 0 <= index < size:
        expected = f"the number of one of {size} items, from 0"
        raise LookupError(f"{dotted(tuple(path))}: expected {expected}, found {name[:40]!r}")
    return index


def _at(section: Any, name: str | int) -> Any:
    """Return what a section holds under a name, None if nothing or if it is no section."""
    try:
        return section[name]
    except (KeyError, IndexError, TypeError):
        return None


def read_file(path: Path) -> Document:
    """Read a YAML or JSON file.

    Raises:
        ConfigError: If there is no such file, or its text cannot be parsed; with file and line.
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


def parse(text: str, place: Callable[[int], str]) -> Document:
    """Parse YAML.

    Args:
        text: One document.
        place: What to call a line, counted from 1.

    Raises:
        ConfigError: If it is not YAML, or uses aliases or tags of its own; one line.
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
    return Document(values, {(): place(1)} | reader.places, tuple(reader.issues))


class _Loader(yaml.BaseLoader):
    """Reads scalars as they are written, and brackets to a depth that has a bound."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803
        if self.flow_level >= _MOST_LEVELS:
            raise yaml.MarkedYAMLError(
                problem=f"brackets more than {_MOST_LEVELS} deep", problem_mark=self.get_mark()
            )
        super().fetch_flow_collection_start(TokenClass)


class _Reader:
    """Turns composed nodes into values, and notes the place of each key on the way."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self.place = place
        self.places: dict[KeyPath, str] = {}
        self.issues: list[ConfigIssue] = []
        self.seen: set[int] = set()  # nodes by identity: an alias is a node seen before

    def read(self, node: Node, path: KeyPath) -> Any:
        if id(node) in self.seen:
            raise _error(node, "a value with an alias, which is not read here")
        self.seen.add(id(node))
        match node:
            case MappingNode():
                return self._read_mapping(node, path)
            case SequenceNode():
                return [self._read_at(item, item, (*path, i)) for i, item in enumerate(node.value)]
            case ScalarNode(tag=tag) if tag == _STRING_TAG:
                return self._read_scalar(node)
            case _:
                raise _error(node, f"the tag {node.tag}, which is not read here")

    def _read_scalar(self, node: ScalarNode) -> Any:
        value = _text(node)
        if node.style:
            return value
        if len(value) > _MOST_DIGITS and re.fullmatch(r"[-+]?[0-9_]+", value):
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
    """Return a scalar's text; escapes may stand for what no file and no name can hold."""
    value: str = node.value
    for character in value:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise _error(node, f"the character {character!r}")
    return value


def _error(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that would not be read back as strings."""


def _represent(_: _Dumper, text: str) -> ScalarNode:
    return ScalarNode(_STRING_TAG, text, style=None if isinstance(_plain(text), str) else "'")


_Dumper.add_representer(str, _represent)


def dump(values: Any) -> str:
    """Return YAML that `parse` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=99)


def dump_line(values: Any) -> str:
    """Return the same as one line, which can stand behind a key or in an override."""
    return yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
        default_flow_style=True,
    )
