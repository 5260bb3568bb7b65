"""Checks that the inputs of a run exist, and that its output folder can be written."""

import os
from collections.abc import Iterator
from pathlib import Path

from megadga.config.models import HuggingFaceModel
from megadga.config.run import RunConfig
from megadga.data.manifest import manifest_path
from megadga.errors import ConfigError
from megadga.mixers.doremi import DoremiOptions
from megadga.section import ConfigIssue, KeyPath


def check_inputs(config: RunConfig) -> None:
    """Check that every input file and folder of a run exists.

    Raises:
        ConfigError: If some are missing, with one line each: file, line and key.
    """
    if issues := [*_missing_folders(config), *_missing_files(config)]:
        raise config.error(issues)


def check_output(config: RunConfig) -> None:
    """Check that a run's output folder exists or can be created, outside of its inputs.

    Raises:
        ConfigError: If not.
    """
    output = config.output
    expected = "a folder that can be written"
    domains = config.data.domains
    if isinstance(domains, Path) and _realpath(output).is_relative_to(_realpath(domains)):
        expected = "a folder outside data.domains, where every folder is a domain"
        raise config.invalid("output", expected=expected, found=str(output))
    existing = next(place for place in (output, *output.absolute().parents) if _exists(place))
    if not existing.is_dir():
        found = f"the file {existing}"
    elif not os.access(existing, os.W_OK | os.X_OK):
        found = f"no permission to write in {existing}"
    else:
        return
    raise config.invalid("output", expected=expected, found=found)


def no_checkpoint(config: RunConfig) -> ConfigError:
    """Return the error for evaluating a run that has no checkpoint."""
    found = f"none in {config.output / 'checkpoints'}"
    return config.invalid("output", expected="a run with a checkpoint", found=found)


def _missing_folders(config: RunConfig) -> Iterator[ConfigIssue]:
    domains = config.data.domains
    if isinstance(domains, Path):
        if not domains.is_dir():
            expected = "a folder with one folder per domain"
            yield ConfigIssue(("data", "domains"), expected, f"none at {domains}")
    else:
        for index, domain in enumerate(domains):
            yield from _shards(("data", "domains", index, "path"), domain.path)
    for name, target in config.data.specific.items():
        yield from _shards(("data", "specific", name, "path"), target.path)
    match config.model:
        case HuggingFaceModel(path=str() as path) if Path(path).is_absolute():
            if not (Path(path) / "config.json").is_file():
                expected = "a folder with config.json, or a model on the hub"
                yield ConfigIssue(("model", "path"), expected, f"none at {path}")
        case _:
            pass
    evaluated = {} if config.evaluation is None else config.evaluation.sets
    for name, held_out in evaluated.items():
        yield from _shards(("evaluation", "sets", name, "path"), held_out.path)
    if isinstance(config.mixing, DoremiOptions):
        folder = config.mixing.reference
        if not folder.is_dir():
            expected = "the output folder of a run"
            yield ConfigIssue(("mixing", "reference"), expected, f"none at {folder}")


def _shards(key: KeyPath, folder: Path) -> Iterator[ConfigIssue]:
    if not folder.is_dir():
        yield ConfigIssue(key, "a folder of shards", f"none at {folder}")
    elif not manifest_path(folder).exists():
        yield ConfigIssue(key, "a folder of shards", f"no {manifest_path(folder)}")


def _missing_files(config: RunConfig) -> Iterator[ConfigIssue]:
    for key, path in config.mixing.files().items():
        if not path.is_file():
            yield ConfigIssue(("mixing", *key), "a file", f"none at {path}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # inside a folder without permission
        return False


def _realpath(path: Path) -> Path:
    return Path(os.path.realpath(path))
