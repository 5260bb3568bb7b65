"""The file that revises a run's data while it trains, and the revisions that a run has applied.

`data.revisions` names a YAML file with keys of `data`: ``domains``, and perhaps ``entering`` and
others. Each revision that is applied is kept in the run's folder, ``revisions/0001.yaml``, so that
a run that has died goes on with the data that its checkpoint was trained on, and is revised again
after the same steps.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, final

from pydantic import ValidationError

from megadga.config.run import RunConfig
from megadga.config.sections import DataSection
from megadga.config.validation import (
    SourceMap,
    issues_from_validation,
    map_paths,
    resolve_path,
    resolve_paths,
)
from megadga.config.yaml_source import dump, read_file
from megadga.data.files import atomic_write
from megadga.errors import ConfigError, ResumeError
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.run_folder.domains import read_domains
from megadga.section import ConfigIssue, format_value

_FOLDER = "revisions"
_FIXED = ("specific", "revisions")


@final
@dataclass(frozen=True)
class RecordedRevision:
    """A revision that a run has applied.

    Attributes:
        number: From 1, in order.
        step: The optimizer step after which it was applied.
        hash: Its digest; see ``Revision``.
        data: The section `data` from then on, with absolute paths.
    """

    number: int
    step: int
    hash: str
    data: Mapping[str, Any]


def revision_path(output: Path, number: int) -> Path:
    """Return the path of a revision in a run's folder."""
    return output / _FOLDER / f"{number:04d}.yaml"


def write_revision(output: Path, revision: RecordedRevision) -> None:
    """Record a revision, before it is applied.

    Raises:
        OSError: If it cannot be written.
    """
    path = revision_path(output, revision.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(dump(asdict(revision)).encode())


def recorded_revisions(output: Path) -> list[RecordedRevision]:
    """Return the revisions of a run's folder, in order.

    Raises:
        ResumeError: If one is damaged.
    """
    paths = sorted((output / _FOLDER).glob("[0-9]*.yaml"))
    return [_read_recorded(path) for path in paths]


def _read_recorded(path: Path) -> RecordedRevision:
    values = read_file(path).values
    keys = {"number": int, "step": int, "hash": str, "data": dict}
    if not isinstance(values, dict) or values.keys() != keys.keys():
        raise ResumeError(f"{path}: expected {', '.join(keys)} of a revision, found others")
    read = cast("dict[str, Any]", values)
    if wrong := [key for key, kind in keys.items() if not isinstance(read[key], kind)]:
        found = format_value(read[wrong[0]])
        raise ResumeError(f"{path}: {wrong[0]}: expected that of a revision, found {found}")
    return RecordedRevision(**read)


def with_recorded_data(config: RunConfig, *, wanted: str | None = None) -> RunConfig:
    """Return a run with the data of the revision that its checkpoint was written under.

    Args:
        config: The run; the same where `data.revisions` is null.
        wanted: Name of the checkpoint; None: the latest.

    Raises:
        ResumeError: If that revision is missing or damaged.
    """
    if config.data.revisions is None:
        return config
    checkpoint = find_checkpoint(config.output / CHECKPOINTS, wanted=wanted)
    recorded = None if checkpoint is None else recorded_data(config, checkpoint)
    return config if recorded is None else revised_config(config, recorded)


def recorded_data(config: RunConfig, checkpoint: Path) -> Mapping[str, Any] | None:
    """Return the section `data` of the revision that a checkpoint was written under.

    None: that of the configuration, also where `data.revisions` is null.

    Args:
        config: The run.
        checkpoint: The checkpoint's folder.

    Raises:
        ResumeError: If that revision is missing or damaged.
    """
    record = None if config.data.revisions is None else read_domains(checkpoint)
    if record is None or record.revision == 0:
        return None
    path = revision_path(config.output, record.revision)
    if not path.exists():
        raise ResumeError(f"{path}: expected the revision that {checkpoint} has, found no file")
    return _read_recorded(path).data


def read_revision(path: Path, config: RunConfig) -> dict[str, Any]:
    """Return the section `data` as a file revises it, with absolute paths.

    Args:
        path: The file. Paths in it are relative to its folder.
        config: The run that it revises.

    Raises:
        ConfigError: If it is invalid, with one line per issue: file, line and key.
    """
    document = read_file(path)
    if not isinstance(document.values, dict):
        found = format_value(document.values)
        raise ConfigError(f"{path}:1: expected keys of data, such as domains, found {found}")
    values = cast("dict[str, Any]", document.values)
    places = SourceMap(document.places)
    fixed = [
        ConfigIssue((key,), "a key of data that may change while a run trains", repr(key))
        for key in _FIXED
        if key in values
    ]
    if "domains" not in values:
        fixed.append(ConfigIssue(("domains",), "a value", "nothing"))
    if issues := [*document.issues, *fixed]:
        raise places.error(issues)
    absolute = map_paths(config.data, lambda _, each: resolve_path(Path.cwd(), each))
    before = absolute.model_dump(mode="json", exclude={"domains", "entering"})
    try:
        section = DataSection.model_validate({**before, **values})
    except ValidationError as error:
        raise places.error(list(issues_from_validation(error, DataSection))) from None
    folders = {key: folder.absolute() for key, folder in document.folders.items()}
    return resolve_paths(section, folders).model_dump(mode="json")


def revised_config(config: RunConfig, data: Mapping[str, Any]) -> RunConfig:
    """Return a run with another section `data`.

    Args:
        config: The run; its specific sets and its `data.revisions` stay.
        data: The section, as `read_revision` returns it.

    Raises:
        ConfigError: If it is invalid.
    """
    kept = {"specific": config.data.specific, "revisions": config.data.revisions}
    try:
        section = DataSection.model_validate({**data, **kept})
    except ValidationError as error:
        raise SourceMap().error(list(issues_from_validation(error, DataSection))) from None
    return config.model_copy(update={"data": section})


@final
@dataclass(frozen=True)
class Proposal:
    """A revision to apply.

    Attributes:
        number: Its number.
        data: The section `data` from now on.
        is_recorded: Whether the run has applied it before it died.
    """

    number: int
    data: Mapping[str, Any]
    is_recorded: bool


@final
class RevisionWatch:
    """Sees when a run's data are to be revised; on rank 0.

    Args:
        config: The run.
        number: The revision that is in force; 0: none.

    Raises:
        ResumeError: If a recorded revision is damaged.
    """

    def __init__(self, config: RunConfig, *, number: int) -> None:
        assert config.data.revisions is not None
        self._config, self._path, self._number = config, config.data.revisions, number
        recorded = recorded_revisions(config.output)
        self._pending = [each for each in recorded if each.number > number]
        self._seen: tuple[int, int] | None = None
        if recorded and self._says(recorded[-1].data):
            self._seen = self._stamp()

    def changed(self) -> bool:
        """Return whether a revision may be due; reads no more than the file's size and time."""
        return bool(self._pending) or self._stamp() not in (None, self._seen)

    def take(self, step: int) -> Proposal | None:
        """Return the revision to apply after an optimizer step; None: there is none.

        Raises:
            ConfigError: If the file is invalid; once, until it changes.
        """
        if self._pending:
            if self._pending[0].step > step:
                return None
            first = self._pending.pop(0)
            return Proposal(first.number, first.data, is_recorded=True)
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return None
        self._seen = stamp
        # Also if it says the same: the folders may hold more.
        data = read_revision(self._path, self._config)
        return Proposal(self._number + 1, data, is_recorded=False)

    def applied(self, proposal: Proposal) -> None:
        """Go on from a revision that was applied."""
        self._number = proposal.number

    def _says(self, data: Mapping[str, Any]) -> bool:
        try:
            return read_revision(self._path, self._config) == data
        except ConfigError:
            return False

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns
