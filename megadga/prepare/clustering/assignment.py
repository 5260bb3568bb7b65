"""The cluster of every text of some inputs. Knows neither what clusters them nor shards."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from megadga.arrays import IntArray
from megadga.prepare.classifier import Classifier
from megadga.prepare.pieces import Cut
from megadga.prepare.reading.texts import chunk_texts, read_texts
from megadga.prepare.workers import open_processes


def assign_inputs(
    classifier: Classifier, paths: Sequence[Path], *, cut: Cut = list, workers: int = 1
) -> tuple[IntArray, IntArray]:
    """Return each text's cluster, and the number of the input that it comes from.

    Args:
        classifier: Picklable if there are several workers.
        paths: The inputs: files and folders of documents.
        cut: What turns documents into texts.
        workers: Processes, at least 1.

    Returns:
        Two arrays of shape ``(texts,)``, in the order of the inputs.

    Raises:
        ConfigError: If an input cannot be read, or ``workers`` is below 1.
    """
    assign = partial(_assign, classifier=classifier, cut=cut)
    clusters, labels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    with open_processes(workers) as pool:
        for number, path in enumerate(paths):
            for part in pool.map_in_order(assign, chunk_texts(read_texts([path]))):
                clusters.append(part)
                labels.append(np.full(len(part), number))
    return np.concatenate(clusters), np.concatenate(labels)


def _assign(texts: Sequence[str], *, classifier: Classifier, cut: Cut) -> IntArray:
    return classifier.assign(cut(texts))
