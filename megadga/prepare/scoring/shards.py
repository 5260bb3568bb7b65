"""Scores the training documents of a folder of shards.

The documents are divided into tasks, which depend on the shards alone: so do the scores, whatever
the number of workers and of interruptions.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.folder import ShardFolder
from megadga.data.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from megadga.data.numbered import NumberedDocuments, documents_of
from megadga.data.scores import remove_scores, storable, write_scores
from megadga.data.selection import SPLIT, read_scored
from megadga.errors import ConfigError, ShardError
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.scoring.scorers import Measure, Scorer
from megadga.prepare.scoring.work import ScoringFolder
from megadga.prepare.workers import Workers

_TASK_TOKENS = 1 << 16
_MAX_TASKS = 1 << 12


@final
@dataclass(frozen=True, slots=True)
class _Task:
    """Consecutive documents of a folder; picklable.

    Attributes:
        folder: The folder.
        digest: Of its shards.
        first: Number of the first document.
        last: Number after the last one.
    """

    folder: Path
    digest: str
    first: int
    last: int

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class ScoredDocuments:
    """What has been scored.

    Attributes:
        name: Name of the scores.
        scores: Of all documents, folder by folder, shape ``(n,)``.
        folders: The number of documents of each folder, by its domain's name or its own.
    """

    name: str
    scores: FloatArray
    folders: dict[str, int]


def score_documents(
    where: Path,
    name: str,
    scorer: Scorer,
    pool: Workers,
    *,
    replace_scores: bool = False,
    stages: Stages = no_progress,
) -> ScoredDocuments | None:
    """Score the training documents of all domains, and write the scores beside their shards.

    After an interruption, call it again: it goes on with the tasks that are left.

    Args:
        where: A folder of domains, of many domains in shared shards, or of one domain.
        name: Of the scores: letters, digits, ``_`` and ``-``.
        scorer: Scores them.
        pool: Measures documents.
        replace_scores: Whether scores of this name by another scorer are removed first.
        stages: Shows progress, in tokens.

    Returns:
        The scores; None if all documents have them already.

    Raises:
        ConfigError: If another scoring of this name is in progress, or was interrupted.
        ShardError: If there are scores of this name by another scorer, or a shard is missing or
            damaged.
    """
    folders = read_scored(where)
    if replace_scores:
        folders = tuple(_without(folder, name) for folder in folders)
    scored_by = scorer.description
    if scorer.relative:
        scored_by += f", among shards {digest_shards(*folders)}"
    left = [folder for folder in folders if not _has_scores(folder, name, scored_by)]
    if not left:
        return None
    lengths = [NumberedDocuments(folder, SPLIT).lengths for folder in folders]
    if not sum(each.size for each in lengths):
        raise ShardError(f"{where}: expected documents in split {SPLIT}, found none")
    tasks = _plan_tasks(folders, lengths)
    work = ScoringFolder(where / f".{name}.scores")
    plan = {"scorer": scored_by, "shards": digest_shards(*folders)}
    with work.claim(plan):
        _measure_all(work, scorer, tasks, lengths, pool, stages)
        sizes = [task.documents for task in tasks]
        measured = [partial(work.all_of, number, sizes) for number in range(len(scorer.passes))]
        scores = _check_finite(scorer.finish(measured), folders, lengths)
        parts = np.split(scores, np.cumsum([each.size for each in lengths])[:-1])
        for folder, part in zip(folders, parts, strict=True):
            if folder in left:
                _write(folder, name, scored_by, part)
        work.remove()
    counts = {f.source.name: each.size for f, each in zip(folders, lengths, strict=True)}
    return ScoredDocuments(name, scores, counts)


def _without(folder: ShardFolder, name: str) -> ShardFolder:
    return replace(folder, manifest=remove_scores(folder.source.path, folder.manifest, name))


def _training(manifest: Manifest) -> Sequence[ShardEntry]:
    return manifest.splits.get(SPLIT, ())


def _has_scores(folder: ShardFolder, name: str, scorer: str) -> bool:
    """Tell whether all documents have scores by a scorer; those by another one are refused."""
    missing = False
    for entry in _training(folder.manifest):
        column = entry.scores.get(name)
        if column is not None and column.scorer != scorer:
            raise ShardError(
                f"{folder.source.path / entry.file}: scores.{name}.scorer: expected "
                f"{scorer!r}, found {column.scorer!r}: choose another --name, or "
                "--replace them"
            )
        missing |= column is None
    return not missing


def _plan_tasks(folders: Sequence[ShardFolder], lengths: Sequence[IntArray]) -> list[_Task]:
    """Divide the documents into tasks of some tokens, each inside one folder."""
    total = sum(int(each.sum()) for each in lengths)
    size = max(_TASK_TOKENS, total // _MAX_TASKS)
    tasks: list[_Task] = []
    for folder, each in zip(folders, lengths, strict=True):
        path, digest = folder.source.path.resolve(), digest_shards(folder)
        begins = np.cumsum(each) - each  # a document is in the task that its first token is in
        cuts = np.flatnonzero(np.diff(begins // size, prepend=-1, append=-1))
        cuts = np.append(cuts[:-1], each.size) if each.size else cuts[:0]
        tasks += [
            _Task(path, digest, first, last)
            for first, last in zip(cuts.tolist(), cuts[1:].tolist(), strict=False)
        ]
    return tasks


def digest_shards(*folders: ShardFolder) -> str:
    """Return a digest of the checksums of folders' training shards."""
    sums = [
        f"{entry.bin_sha256} {entry.idx_sha256} {entry.spans_sha256}"
        for folder in folders
        for entry in _training(folder.manifest)
    ]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]


def _measure_all(
    work: ScoringFolder,
    scorer: Scorer,
    tasks: Sequence[_Task],
    lengths: Sequence[IntArray],
    pool: Workers,
    stages: Stages,
) -> None:
    """Run every pass over the tasks that it has not been run over yet."""
    total = sum(int(each.sum()) for each in lengths)
    for number, measure in enumerate(scorer.passes):
        title = "scoring" if len(scorer.passes) == 1 else f"pass {number + 1}"
        advance = stages(title, total, " tokens")
        numbered = list(enumerate(tasks))
        waiting = [
            (place, task)
            for place, task in numbered
            if work.load(number, place, task.documents) is None
        ]
        done = {place for place, _ in numbered} - {place for place, _ in waiting}
        advance(sum(_num_tokens(tasks[place]) for place in done))
        for (place, task), found in pool.map(partial(_measure_task, measure), waiting):
            work.save(number, place, found)
            advance(_num_tokens(task))


@functools.lru_cache(maxsize=4)
def _opened(folder: Path, digest: str) -> NumberedDocuments:
    """Open the documents of a folder, once in a process."""
    (opened,) = read_scored(folder)
    if (found := digest_shards(opened)) != digest:
        raise ShardError(f"{folder}: expected the shards {digest} that are scored, found {found}")
    return NumberedDocuments(opened, SPLIT)


def _num_tokens(task: _Task) -> int:
    return int(_opened(task.folder, task.digest).lengths[task.first : task.last].sum())


def _measure_task(measure: Measure, numbered: tuple[int, _Task]) -> NDArray[Any]:
    _, task = numbered
    documents = _opened(task.folder, task.digest)
    batches = documents.read(np.arange(task.first, task.last))
    found = measure([each for batch in batches for each in documents_of(batch)])
    assert len(found) == task.documents, "a row for each document"
    return found


def _check_finite(
    scores: FloatArray, folders: Sequence[ShardFolder], lengths: Sequence[IntArray]
) -> FloatArray:
    """Return scores after checking that they are finite in float32."""
    wrong: IntArray = np.flatnonzero(~storable(scores))
    if wrong.size:
        firsts: IntArray = np.cumsum([0, *(each.size for each in lengths)], dtype=np.int64)
        place = int((firsts <= wrong[0]).sum()) - 1
        raise ConfigError(
            f"{folders[place].source.path}: {SPLIT} document {wrong[0] - firsts[place]}: expected "
            f"a finite score, found {scores[wrong[0]]} (and {wrong.size - 1:,} more)"
        )
    return scores


def _write(folder: ShardFolder, name: str, scorer: str, scores: FloatArray) -> None:
    """Write a folder's scores, and the manifest that names them, as of now."""
    path = folder.source.path
    manifest = read_manifest(path)
    if [e.file for e in _training(manifest)] != [e.file for e in _training(folder.manifest)]:
        raise ShardError(f"{path}: expected the shards as scoring began, found others")
    try:
        entries = write_scores(path, _training(manifest), name, scorer, scores)
        write_manifest(path, replace(manifest, splits={**manifest.splits, SPLIT: entries}))
    except OSError as error:
        raise ConfigError(f"{path}: expected to write scores there, found {error}") from None
