"""The on-disk state of a build, from which an interrupted build resumes."""

import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, final

from megadga.data.files import atomic_write, exclusive
from megadga.data.manifest import ShardEntry
from megadga.errors import ConfigError

WRITE_INTERVAL_S = 0.5


@final
class TaskProgress:
    """Progress of one task, published in a file.

    Args:
        path: The file; removed when the task ends.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._done = 0
        self._written_at = clock()

    def advance(self, amount: int) -> None:
        """Add to the progress; the file is updated twice a second."""
        self._done += amount
        if (now := self._clock()) - self._written_at >= WRITE_INTERVAL_S:
            self._path.write_text(str(self._done))
            self._written_at = now

    def end(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> int:
    """Return a task's progress, 0 if it is not running or has not reported yet."""
    try:
        return int(path.read_text() or 0)  # empty while it is being written
    except FileNotFoundError:
        return 0


FOLDERS = ("runs", "tasks", "progress", "merged", "entries")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One sorted run.

    Attributes:
        name: Name of its files without suffix.
        domains: Sorted names of its domains if they come from records, else empty.
        checksum: Checksum over its files.
    """

    name: str
    domains: Sequence[str]
    checksum: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Result of one task.

    Attributes:
        runs: Its runs, in the order of the records.
        num_records: Records read, invalid ones included.
        num_bad: Invalid records.
        lines: Number of lines of each part.
    """

    runs: Sequence[RunRecord]
    num_records: int
    num_bad: int
    lines: Sequence[int]


@dataclass(frozen=True, slots=True)
class TaskReject:
    """An invalid record, located within its task.

    Attributes:
        part: Index of its part of the task, from 0.
        line: Its line in that part, from 1.
        reason: What was expected and what was found.
    """

    part: int
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The hidden folder with a build's state; picklable, for workers.

    Attributes:
        folder: Its path.
    """

    folder: Path

    @contextmanager
    def claim(self, plan: Mapping[str, Any]) -> Generator[None]:
        """Create or reopen the folder, with exclusive access.

        Args:
            plan: JSON-serializable description of the build.

        Raises:
            ConfigError: If another process is using it, or it belongs to a different build; names
                the difference.
        """
        with exclusive(self.folder, "build"):
            shutil.rmtree(self._removed, ignore_errors=True)  # left by an interrupted removal
            self._continue(plan)
            yield

    def is_of(self, plan: Mapping[str, Any]) -> bool:
        """Return whether the folder belongs to exactly this build."""
        before = _read_json(self._plan_path)
        return before is not None and dict(_leaves(before, "")) == dict(_leaves(plan, ""))

    def remove(self) -> None:
        """Remove the folder, renaming it first so that a partial removal is not reused."""
        self.folder.rename(self._removed)
        shutil.rmtree(self._removed)

    def run_prefix(self, name: str) -> Path:
        """Return the path of a run's files without suffix."""
        return self.folder / "runs" / name

    def progress_path(self, task: int) -> Path:
        """Return the path of a task's progress file."""
        return self.folder / "progress" / f"{task:06d}"

    def progress_paths(self) -> list[Path]:
        """Return the progress files of all running tasks."""
        return list((self.folder / "progress").iterdir())

    def shard_prefix(self, folder: str, name: str) -> Path:
        """Return the path of a shard's files without suffix."""
        return self.merged_folder(folder) / name

    def merged_folder(self, folder: str) -> Path:
        """Return the folder of shards that is moved to its final location when complete."""
        return self.folder / "merged" / folder

    def task_record(self, task: int) -> TaskRecord | None:
        """Return the record of a task, None if it is not finished."""
        content = _read_json(self._task_path(task))
        if content is None:
            return None
        runs = [RunRecord(**run) for run in content.pop("runs")]
        return TaskRecord(runs=runs, **content)

    def save_task(self, task: int, record: TaskRecord, rejected: Iterable[TaskReject]) -> None:
        """Record that a task is finished, with its invalid records."""
        if record.num_bad:
            with atomic_write(self._rejects_path(task), durable=False) as file:
                file.writelines(json.dumps(asdict(one)).encode() + b"\n" for one in rejected)
        _write_json(self._task_path(task), asdict(record))

    def rejected(self, task: int) -> Iterator[TaskReject]:
        """Yield a finished task's invalid records, in order."""
        with suppress(FileNotFoundError), self._rejects_path(task).open("rb") as file:
            for line in file:
                yield TaskReject(**json.loads(line))

    def shard_entry(self, folder: str, name: str) -> ShardEntry | None:
        """Return the manifest entry of a shard, None if it is not finished."""
        content = _read_json(self._entry_path(folder, name))
        return None if content is None else ShardEntry(**content)

    def save_shard(self, folder: str, entry: ShardEntry) -> None:
        """Record that a shard is finished."""
        path = self._entry_path(folder, entry.file)
        path.parent.mkdir(exist_ok=True)
        _write_json(path, asdict(entry))

    @property
    def _plan_path(self) -> Path:
        return self.folder / "plan.json"

    @property
    def _removed(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.removed")

    def _continue(self, plan: Mapping[str, Any]) -> None:
        """Resume the existing build if it matches the plan, or start a new one.

        Options under ``merging`` affect shards but not runs: if they differ, the shards are
        written again from the same runs.
        """
        before = _read_json(self._plan_path)
        if before is None or not any((self.folder / "runs").iterdir()):  # nothing to go on with
            for name in FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                (self.folder / name).mkdir()
            _write_json(self._plan_path, plan, durable=True)
            return
        for left in self.progress_paths():
            left.unlink()
        before, plan = dict(before), dict(plan)
        merging = before.pop("merging", None), plan.pop("merging", None)
        expected, found = dict(_leaves(before, "")), dict(_leaves(plan, ""))
        for key in {**expected, **found}:
            one, other = expected.get(key), found.get(key)
            if one != other:
                raise ConfigError(
                    f"{self._plan_path}: {key}: expected {one}, found {other}: a different build "
                    f"was interrupted here; finish that one, or remove {self.folder}"
                )
        if merging[0] != merging[1]:
            for name in ("merged", "entries"):
                shutil.rmtree(self.folder / name)
                (self.folder / name).mkdir()
            _write_json(self._plan_path, {**plan, "merging": merging[1]}, durable=True)

    def _task_path(self, task: int) -> Path:
        return self.folder / "tasks" / f"{task:06d}.json"

    def _rejects_path(self, task: int) -> Path:
        return self.folder / "tasks" / f"{task:06d}.rejects"

    def _entry_path(self, folder: str, name: str) -> Path:
        return self.folder / "entries" / folder / f"{name}.json"


def _leaves(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the JSON representation of every leaf value."""
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _leaves(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(cast("Sequence[object]", value)):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, json.dumps(value)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _write_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    with atomic_write(path, durable=durable) as file:
        file.write(json.dumps(content).encode())
