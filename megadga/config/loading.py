"""Loads a run from files and `--set` overrides."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from megadga.config.run import RunConfig
from megadga.config.validation import (
    SourceMap,
    issues_from_validation,
    resolve_path,
    resolve_paths,
)
from megadga.config.yaml_source import ConfigDocument, parse, read_file
from megadga.errors import ConfigError
from megadga.section import ConfigIssue, format_value


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load the configuration of a run.

    Args:
        path: YAML file. Paths in it are relative to its folder.
        overrides: ``key=value`` pairs, applied in order: a dotted key and its value as YAML. Paths
            in them are relative to the working directory.

    Raises:
        ConfigError: If the configuration is invalid, with one line per issue: file and line, key,
            what was expected and what was found.
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
        reported = {issue.path for issue in issues}
        found = issues_from_validation(error, RunConfig)
        raise places.error(issues + [m for m in found if m.path not in reported]) from None
    if issues:
        raise places.error(issues)
    return resolve_paths(config, document.folders)


def _with_override(document: ConfigDocument, override: str, place: str) -> ConfigDocument:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{place}: expected key=value, found {override!r}")
    try:
        path = document.find(key)
    except LookupError as error:
        raise ConfigError(f"{place}: {error.args[0]}") from None
    return document.with_part(path, parse(value, lambda _: place))


def _with_deepspeed(document: ConfigDocument) -> ConfigDocument:
    """Replace the path of DeepSpeed's JSON by its content."""
    name = document.values.get("deepspeed")
    if not isinstance(name, str):
        return document
    folders = document.folders
    path = resolve_path(folders.get(("deepspeed",), folders[()]), Path(name))
    try:
        found = None if path.is_file() else f"none at {path}"
    except OSError as error:  # for instance a name that is too long
        found = f"{path}: {error.strerror}"
    if found is None:
        return document.with_part(("deepspeed",), read_file(path))
    issue = ConfigIssue(("deepspeed",), "a JSON file", found)
    values = {key: value for key, value in document.values.items() if key != "deepspeed"}
    return replace(document, values=values, issues=(*document.issues, issue))
