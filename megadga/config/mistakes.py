"""Turns pydantic's errors into mistakes that name each key as it is written. Knows no key."""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from megadga.config.places import KeyPath, Mistake, dotted, shown
from megadga.config.schema import all_keys, follow, type_name

CLOSE = 0.75
"""Similarity (difflib's ratio) from which on a name counts as a misspelling of another."""


def as_error(mistakes: Sequence[Mistake]) -> PydanticCustomError:
    """Return what a validator raises to report mistakes at keys of its choice."""
    text = "; ".join(f"{dotted(m.path)}: expected {m.expected}, found {m.found}" for m in mistakes)
    return PydanticCustomError("mistakes", "{text}", {"text": text, "mistakes": tuple(mistakes)})


def from_validation(error: ValidationError, root: type[BaseModel]) -> Iterator[Mistake]:
    """Yield what is wrong in the section ``root`` according to pydantic."""
    for detail in error.errors(include_url=False):
        context = detail.get("ctx", {})
        path, sections = follow(root, detail["loc"])
        match detail["type"]:
            case "mistakes":
                yield from context["mistakes"]
            case "model_type" | "dict_type":
                yield Mistake(path, "a mapping", shown(detail["input"]))
            case "path_type":
                yield Mistake(path, "a path", shown(detail["input"]))
            case "missing":
                yield Mistake(path, "a value", "nothing")
            case "extra_forbidden":
                yield _unknown_key(path, root, sections)
            case "union_tag_invalid":
                yield choice((*path, "type"), map(type_name, sections), context["tag"])
            case "union_tag_not_found":
                yield choice((*path, "type"), map(type_name, sections), None)
            case "literal_error":
                yield choice(path, re.findall(r"'(.*?)'", context["expected"]), detail["input"])
            case _:
                yield _other(path, detail)


def _other(path: KeyPath, detail: ErrorDetails) -> Mistake:
    if detail["type"] in ("value_error", "assertion_error"):  # of an extension's own validators
        found = f"{shown(detail['input'])} ({detail.get('ctx', {})['error']})"
        return Mistake(path, "what the extension accepts", found)
    expected = detail["msg"].removeprefix("Input should be ")
    expected = re.sub(r"^(greater|less) than", r"a number \1 than", expected)
    return Mistake(path, expected, detail.get("ctx", {}).get("found", shown(detail["input"])))


def choice(path: KeyPath, choices: Iterable[str], found: object) -> Mistake:
    """Return what is wrong with a word that is none of some, at least one; None: it is missing."""
    names = list(choices)
    close = get_close_matches(str(found), names, n=1)
    listed = " or ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))
    return Mistake(
        path,
        expected=listed,
        found="nothing" if found is None else shown(found),
        hint=repr(close[0]) if close else "",
    )


def _unknown_key(
    path: KeyPath, root: type[BaseModel], sections: Sequence[type[BaseModel]]
) -> Mistake:
    """Name the nearest key of the section, of others in its place, or the same key elsewhere."""
    key = str(path[-1])
    _, alternatives = follow(root, path[:-1])
    siblings, others = _fields(sections), _fields(alternatives)
    having = (s for s in alternatives if {key, "type"} <= s.model_fields.keys())
    types = dict.fromkeys(map(type_name, having))  # a section may be reached in several ways
    close = get_close_matches(key, siblings, n=1, cutoff=CLOSE)
    if key not in others:
        close = close or get_close_matches(key, others, n=1, cutoff=CLOSE)
        close = close or [dotted(other) for other in all_keys(root) if other[-1] == key]
    return Mistake(
        path,
        expected="a known key" if close else f"one of {', '.join(siblings)}",
        found=f"{key!r}, a key of type {' or '.join(dict.fromkeys(types))}"
        if types
        else repr(key),
        hint=" or ".join(map(repr, dict.fromkeys(close))),
    )


def _fields(sections: Iterable[type[BaseModel]]) -> list[str]:
    return sorted({name for section in sections for name in section.model_fields})
