"""Loads a run from files and `--set` overrides."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from megadga.config.run import RunConfig
from megadga.config.validation import SourceMap, from_validation, under, under_folders
from megadga.config.yaml_source import Document, parse, read_file
from megadga.errors import ConfigError
from megadga.section import ConfigIssue, format_value


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read one run.

    Args:
        path: YAML file. Every path in it is relative to its folder.
        overrides: ``key=value`` each, applied in this order: a dotted key and its value as YAML.
            Paths in them are relative to the working directory.

    Raises:
        ConfigError: If anything is wrong, with a line for each mistake: file and line, key, what
            was expected and what was found.
    """
    document = read_file(path)
    if not isinstance(document.values, dict):
        raise ConfigError(
            f"{path}:1: expected a mapping of keys, found {format_value(document.values)}"
        )
    document = _with_deepspeed(document)
    for number, override in enumerate(overrides, start=1):
        document = _with_override(document, override, f"override {number}")
        document = _with_deepspeed(document)
    issues = list(document.issues)
    places = SourceMap(document.places)
    try:
        config = RunConfig.model_validate(document.values, context=places)
    except ValidationError as error:
        told = {issue.path for issue in issues}
        found = from_validation(error, RunConfig)
        raise places.error(issues + [m for m in found if m.path not in told]) from None
    if issues:
        raise places.error(issues)
    return under_folders(config, document.folders)


def _with_override(document: Document, override: str, place: str) -> Document:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{place}: expected key=value, found {override!r}")
    try:
        path = document.find(key)
    except LookupError as error:
        raise ConfigError(f"{place}: {error.args[0]}") from None
    return document.with_part(path, parse(value, lambda _: place))


def _with_deepspeed(document: Document) -> Document:
    """Put the content of DeepSpeed's file in the place of its path."""
    name = document.values.get("deepspeed")
    if not isinstance(name, str):
        return document
    folders = document.folders
    path = under(folders.get(("deepspeed",), folders[()]), Path(name))
    try:
        found = None if path.is_file() else f"none at {path}"
    except OSError as error:  # of a name that no file can have
        found = f"{path}: {error.strerror}"
    if found is None:
        return document.with_part(("deepspeed",), read_file(path))
    issue = ConfigIssue(("deepspeed",), "a JSON file", found)
    values = {key: value for key, value in document.values.items() if key != "deepspeed"}
    return replace(document, values=values, issues=(*document.issues, issue))
