"""Runs both stages of a build on all workers, with resuming and progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadga.errors import ConfigError
from megadga.prepare.pipeline.corpus import Task
from megadga.prepare.pipeline.merging import ShardMerger, ShardTask
from megadga.prepare.pipeline.rejects import find_rejects, write_rejects
from megadga.prepare.pipeline.tokenizing import TaskTokenizer
from megadga.prepare.pipeline.work_folder import TaskRecord, read_progress
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.reading.records import MaxBad
from megadga.prepare.workers import Workers

MEMORY_BYTES = 1 << 26
MIN_RECORD_BYTES = 1 << 20
MAX_MEMORY_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Execution:
    """How a build is executed; does not affect its output.

    Attributes:
        workers: The workers.
        memory_bytes: Bytes of tokens that each worker holds in memory, at least 1.
        max_bad: Number or fraction of invalid records to tolerate.
        stages: Shows progress.

    Raises:
        ConfigError: If a value is out of range.
    """

    workers: Workers = Workers()
    memory_bytes: int = MEMORY_BYTES
    max_bad: MaxBad = MaxBad()
    stages: Stages = no_progress

    def __post_init__(self) -> None:
        if self.memory_bytes < 1:
            raise ConfigError(f"memory: expected at least 1 byte, found {self.memory_bytes}")
        if self.memory_bytes > MAX_MEMORY_BYTES:
            raise ConfigError(f"memory: expected at most 2^62 bytes, found {self.memory_bytes}")

    @property
    def record_bytes(self) -> int:
        """Maximum size of a record's line: a quarter of the memory, at least 1 MiB.

        Tokenizing a text takes about 50 times its size.
        """
        return max(self.memory_bytes // 4, MIN_RECORD_BYTES)

    def held_tokens(self, token_bytes: int) -> int:
        """Return the number of tokens that a worker holds in memory, at least 1."""
        return max(self.memory_bytes // token_bytes, 1)


def tokenize_all(
    job: TaskTokenizer, tasks: Sequence[Task], execution: Execution, *, rejects_path: Path
) -> list[TaskRecord]:
    """Run the remaining tasks and return the records of all tasks, in order.

    Args:
        job: The function to run on each task.
        tasks: All tasks.
        execution: Workers and the limit of invalid records.
        rejects_path: File for the list of invalid records, written at the end or when there are
            too many.

    Raises:
        ConfigError: If a file is damaged or too many records are invalid; completed work is kept.
    """
    records = _finished(job, tasks, execution)
    finished = sum(task.input_bytes for task in tasks if task.number in records)
    total = sum(task.input_bytes for task in tasks)
    advance, reported = execution.stages("tokenizing", total, "B"), 0

    def report_progress() -> None:
        nonlocal reported
        at_work = sum(read_progress(path) for path in job.work_folder.progress_paths())
        done = min(finished + at_work, total)
        advance(done - reported)
        reported = done

    report_progress()
    missing = [task for task in tasks if task.number not in records]
    missing.sort(key=lambda task: -task.input_bytes)  # largest first, for load balancing
    for task, record in execution.workers.map(job, missing, waiting=report_progress):
        records[task.number] = record
        finished += task.input_bytes
        if _too_many(records, execution.max_bad, complete=False):
            raise _list_bad(job, tasks, records, execution.max_bad, rejects_path)
    report_progress()
    if _too_many(records, execution.max_bad, complete=True):
        raise _list_bad(job, tasks, records, execution.max_bad, rejects_path)
    if any(record.num_bad for record in records.values()):
        write_rejects(rejects_path, find_rejects(tasks, records, job.work_folder))
    return [records[task.number] for task in tasks]


def write_all(job: ShardMerger, shards: Sequence[ShardTask], execution: Execution) -> None:
    """Write the remaining shards.

    Args:
        job: The function to run on each shard.
        shards: All shards.
        execution: Workers and progress.
    """
    total = sum(shard.num_tokens for shard in shards)
    missing = [
        shard for shard in shards if job.work_folder.shard_entry(shard.folder, shard.name) is None
    ]
    advance = execution.stages("writing", total, " tokens")
    advance(total - sum(shard.num_tokens for shard in missing))
    for shard, _ in execution.workers.map(job, missing):
        advance(shard.num_tokens)


def _finished(
    job: TaskTokenizer, tasks: Sequence[Task], execution: Execution
) -> dict[int, TaskRecord]:
    """Return the records of tasks that an earlier process completed, by number."""
    found = {task.number: job.work_folder.task_record(task.number) for task in tasks}
    claimed = [task for task in tasks if found[task.number] is not None]
    if not claimed:
        return {}
    advance = execution.stages("checking", len(claimed), " tasks")
    records: dict[int, TaskRecord] = {}
    for task, whole in execution.workers.map(job.has, claimed):
        record = found[task.number]
        if whole and record is not None:
            records[task.number] = record
        advance(1)
    return records


def _too_many(records: Mapping[int, TaskRecord], max_bad: MaxBad, *, complete: bool) -> bool:
    num_bad = sum(record.num_bad for record in records.values())
    num_records = sum(record.num_records for record in records.values())
    return max_bad.exceeded(num_bad, num_records, complete=complete)


def _list_bad(
    job: TaskTokenizer,
    tasks: Sequence[Task],
    records: Mapping[int, TaskRecord],
    max_bad: MaxBad,
    path: Path,
) -> ConfigError:
    """Write the list of invalid records so far, and return the error that names it."""
    write_rejects(path, find_rejects(tasks, records, job.work_folder))
    first = next(find_rejects(tasks, records, job.work_folder))
    num_bad = sum(record.num_bad for record in records.values())
    num_records = sum(record.num_records for record in records.values())
    return ConfigError(
        f"{first}; found {num_bad:,} bad records among {num_records:,}, expected at most "
        f"max_bad = {max_bad}: they are listed in {path}; completed work is kept"
    )
