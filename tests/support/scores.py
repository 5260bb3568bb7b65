"""Gives documents of small shards scores, and reads them back."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from megadga.data.indexed import IndexedShard
from megadga.data.manifest import read_manifest, write_manifest
from megadga.data.scores import read_scores, write_scores
from megadga.data.verify import plan_checks, verify_shard


def score(folder: Path, values, *, name: str = "worth", scorer: str = "by hand") -> Path:
    """Give the training documents of a domain some scores."""
    manifest = read_manifest(folder)
    entries = write_scores(folder, manifest.splits["train"], name, scorer, np.asarray(values))
    write_manifest(folder, replace(manifest, splits={**manifest.splits, "train": entries}))
    return folder


def scores_of(folder: Path, name: str = "worth") -> list[float]:
    return read_scores(folder, read_manifest(folder).splits["train"], name).tolist()


def problems_of(folder: Path) -> list[str]:
    plan = plan_checks(folder)
    return [*plan.problems, *(line for s in plan.shards for line in verify_shard(s).problems)]


def documents_of(folder: Path, split: str = "train") -> list[list[int]]:
    """The tokens of each document of a folder."""
    found = []
    for entry in read_manifest(folder).splits[split]:
        shard = IndexedShard.open(folder / entry.file)
        found += [shard.document(number).tolist() for number in range(shard.num_documents)]
    return found
