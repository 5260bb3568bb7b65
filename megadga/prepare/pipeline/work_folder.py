"""What a build has finished, on disk, so that it resumes where it was killed."""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, final

from megadga.data.files import atomic_write
from megadga.data.manifest import ShardEntry
from megadga.errors import ConfigError

WRITE_INTERVAL_S = 0.5


@final
class TaskProgress:
    """What one worker has done of the task it is at, in a file that whoever waits may read.

    Args:
        path: The file; it is gone once the task has ended.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._done = 0
        self._written_at = clock()

    def advance(self, amount: int) -> None:
        """Count some more; the file follows twice a second."""
        self._done += amount
        if (now := self._clock()) - self._written_at >= WRITE_INTERVAL_S:
            self._path.write_text(str(self._done))
            self._written_at = now

    def end(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> int:
    """Return what a task has done so far; 0 if nobody is at it, or has said anything yet."""
    try:
        return int(path.read_text() or 0)  # empty while it is being written
    except FileNotFoundError:
        return 0


FOLDERS = ("runs", "tasks", "progress", "merged", "entries")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One sorted run.

    Attributes:
        name: Its files' name without their suffixes.
        domains: The names of its domains where records say them, sorted; else none.
        checksum: Of its files, together.
    """

    name: str
    domains: Sequence[str]
    checksum: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What came of one task.

    Attributes:
        runs: In the order of the records.
        num_records: Records that it read, the bad ones too.
        num_bad: Those that were rejected.
        lines: Lines of each of its parts.
    """

    runs: Sequence[RunRecord]
    num_records: int
    num_bad: int
    lines: Sequence[int]


@dataclass(frozen=True, slots=True)
class TaskReject:
    """A record that was left out.

    Attributes:
        part: Which part of its task it is in, from 0.
        line: Its line in that part, from 1.
        reason: What was expected and what was found.
    """

    part: int
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The hidden folder that a build works in; picklable, for workers.

    Attributes:
        folder: Where it is, or will be.
    """

    folder: Path

    @contextmanager
    def claim(self, plan: Mapping[str, Any]) -> Generator[None]:
        """Make the folder, or go on in it, alone.

        Args:
            plan: All that decides what is built, JSON-shaped.

        Raises:
            ConfigError: If another build is at work here, or the one that stopped here was of
                something else; names what differs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.folder}: expected nobody at work here, found another build"
                ) from None
            shutil.rmtree(self._removed, ignore_errors=True)  # one was killed while it removed
            self._continue(plan)
            yield

    def is_of(self, plan: Mapping[str, Any]) -> bool:
        """Return whether a build of exactly this has stopped here, or is at work."""
        before = _read_json(self._plan_path)
        return before is not None and dict(_leaves(before, "")) == dict(_leaves(plan, ""))

    def remove(self) -> None:
        """Remove the folder and all that is in it; half of it is never under its name."""
        self.folder.rename(self._removed)
        shutil.rmtree(self._removed)

    def run_prefix(self, name: str) -> Path:
        """Return the path of a run's files without their suffixes."""
        return self.folder / "runs" / name

    def progress_path(self, task: int) -> Path:
        """Return where a task says how far it is."""
        return self.folder / "progress" / f"{task:06d}"

    def progress_paths(self) -> list[Path]:
        """Return where the tasks that somebody is at say how far they are."""
        return list((self.folder / "progress").iterdir())

    def shard_prefix(self, folder: str, name: str) -> Path:
        """Return the path of a shard's files without their suffixes."""
        return self.merged_folder(folder) / name

    def merged_folder(self, folder: str) -> Path:
        """Return the folder that becomes the final one when all its shards are there."""
        return self.folder / "merged" / folder

    def task_record(self, task: int) -> TaskRecord | None:
        """Return the record of a task; None: it is not finished."""
        content = _read_json(self._task_path(task))
        if content is None:
            return None
        runs = [RunRecord(**run) for run in content.pop("runs")]
        return TaskRecord(runs=runs, **content)

    def save_task(self, task: int, record: TaskRecord, rejected: Iterable[TaskReject]) -> None:
        """Record that a task is finished, with what it rejected."""
        if record.num_bad:
            with atomic_write(self._rejects_path(task), durable=False) as file:
                file.writelines(json.dumps(asdict(one)).encode() + b"\n" for one in rejected)
        _write_json(self._task_path(task), asdict(record))

    def rejected(self, task: int) -> Iterator[TaskReject]:
        """Yield what a finished task rejected, in order."""
        with suppress(FileNotFoundError), self._rejects_path(task).open("rb") as file:
            for line in file:
                yield TaskReject(**json.loads(line))

    def shard_entry(self, folder: str, name: str) -> ShardEntry | None:
        """Return what the manifest will say of a shard; None: it is not finished."""
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
        """Check that what was begun here is what is planned, or begin.

        What stands under ``merging`` decides on shards and not on runs: another value makes the
        shards anew, of the same runs.
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
                    f"{self._plan_path}: {key}: expected {one}, found {other}: a build of "
                    f"something else stopped here; finish that one, or remove {self.folder}"
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
    """Yield the path of everything that holds nothing else, and how JSON writes it."""
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
