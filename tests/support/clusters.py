"""Texts on a few invented subjects, and a clustering of them."""

import random
from collections.abc import Sequence
from pathlib import Path

from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.training import ClusteringRecipe, train_clusters
from tests.support.texts import write_lines

SUBJECTS = {
    "sea": "ship sail wave harbour anchor tide captain deck storm mast",
    "kitchen": "flour sugar oven butter bake stir spoon dough salt bowl",
    "court": "judge law witness verdict appeal clause lawyer trial oath jury",
    "code": "return ( ) { } ; int if while void",
}


def texts_about(subject: str, count: int, *, seed: int = 0) -> list[str]:
    """Texts of 20 words, all on one subject."""
    rng = random.Random(f"{subject} {seed}")
    return [" ".join(rng.choices(SUBJECTS[subject].split(), k=20)) for _ in range(count)]


def write_subjects(folder: Path, *, count: int = 60) -> tuple[Path, ...]:
    """Write a file of texts a subject."""
    return tuple(
        write_lines(folder / f"{subject}.jsonl", texts_about(subject, count))
        for subject in SUBJECTS
    )


def learn(folder: Path, *, levels: Sequence[int] = (4, 16), seed: int = 0) -> Clustering:
    """Write the subjects' texts and their clustering ``clusters`` into a folder."""
    recipe = ClusteringRecipe(tuple(levels), seed=seed)
    return train_clusters(write_subjects(folder), folder / "clusters", recipe)
