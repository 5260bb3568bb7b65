"""Checks that what a run reads and writes is where it says. Reads no file and writes none."""

import os
from collections.abc import Iterator
from pathlib import Path

from megadga.config.mixing import DgaMixing, ImportanceMixing
from megadga.config.models import RunConfig
from megadga.config.places import KeyPath, Mistake
from megadga.config.rules import DoremiMixing, ScheduleMixing
from megadga.errors import ConfigError
from megadga.shards.manifest import manifest_path


def check_inputs(config: RunConfig) -> None:
    """Check that every file and folder that a run reads is there.

    Raises:
        ConfigError: If some are missing, with a line for each: file, line and key.
    """
    if mistakes := [*_folders(config), *_files(config)]:
        raise config.error(mistakes)


def check_output(config: RunConfig) -> None:
    """Check that a run's folder is there or can be made, and is none of those that it reads.

    Raises:
        ConfigError: If not.
    """
    output = config.output
    expected = "a folder that can be written"
    domains = config.data.domains
    if isinstance(domains, Path) and _real(output).is_relative_to(_real(domains)):
        expected = "a folder outside data.domains, where every folder is a domain"
        raise config.mistake("output", expected=expected, found=str(output))
    existing = next(place for place in (output, *output.absolute().parents) if _exists(place))
    if not existing.is_dir():
        found = f"the file {existing}"
    elif not os.access(existing, os.W_OK | os.X_OK):
        found = f"no permission to write in {existing}"
    else:
        return
    raise config.mistake("output", expected=expected, found=found)


def no_checkpoint(config: RunConfig) -> ConfigError:
    """Return the error of a run that is to be evaluated and has left no checkpoint."""
    found = f"none in {config.output / 'checkpoints'}"
    return config.mistake("output", expected="a run with a checkpoint", found=found)


def _folders(config: RunConfig) -> Iterator[Mistake]:
    domains = config.data.domains
    if isinstance(domains, Path):
        if not domains.is_dir():
            expected = "a folder with one folder a domain"
            yield Mistake(("data", "domains"), expected, f"none at {domains}")
    else:
        for index, domain in enumerate(domains):
            yield from _shards(("data", "domains", index, "path"), domain.path)
    for name, target in config.data.specific.items():
        yield from _shards(("data", "specific", name, "path"), target.path)
    evaluated = {} if config.evaluation is None else config.evaluation.sets
    for name, held_out in evaluated.items():
        yield from _shards(("evaluation", "sets", name, "path"), held_out.path)
    if isinstance(config.mixing, DoremiMixing):
        folder = config.mixing.reference
        if not folder.is_dir():
            expected = "the output folder of a run"
            yield Mistake(("mixing", "reference"), expected, f"none at {folder}")


def _shards(key: KeyPath, folder: Path) -> Iterator[Mistake]:
    if not folder.is_dir():
        yield Mistake(key, "a folder of shards", f"none at {folder}")
    elif not manifest_path(folder).exists():
        yield Mistake(key, "a folder of shards", f"no {manifest_path(folder)}")


def _files(config: RunConfig) -> Iterator[Mistake]:
    files: dict[KeyPath, Path | None] = {}
    match config.mixing:
        case DgaMixing() as mixing:
            files["mixing", "basis"] = mixing.basis
        case ImportanceMixing() as mixing:
            files["mixing", "histogram"] = mixing.histogram
        case ScheduleMixing() as mixing:
            files["mixing", "csv"] = mixing.csv
            replay = mixing.replay
            files["mixing", "replay", "metrics"] = None if replay is None else replay.metrics
        case _:
            pass
    for key, path in files.items():
        if path is not None and not path.is_file():
            yield Mistake(key, "a file", f"none at {path}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that may not be looked into
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
