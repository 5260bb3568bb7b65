from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from megadga.errors import ConfigError
from megadga.prepare.clustering.embedding import EmbeddingKind, unit_rows
from megadga.prepare.scoring.density import DensityScorer, DensitySketch, HashDocuments, SignHashes


def points(number: int, dimension: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    return unit_rows(rng.standard_normal((number, dimension)).astype(np.float32))


def kernels(left, right, bits: int):
    """The probabilities of a collision, in float64."""
    angles = np.arccos(np.clip(left.astype(np.float64) @ right.T.astype(np.float64), -1.0, 1.0))
    return (1.0 - angles / np.pi) ** bits


def sketched(hashes: SignHashes, found) -> DensitySketch:
    sketch = DensitySketch(hashes)
    sketch.add(hashes.hash(found))
    return sketch


def test_counters_worked_by_hand():
    # Two functions of one bit; three points.
    sketch = DensitySketch(SignHashes(functions=2, bits=1))
    hashes = np.array([[0, 1], [0, 0], [1, 1]], dtype=np.uint16)
    sketch.add(hashes)
    # Points with its hash: (2 + 2) / 2, (2 + 1) / 2 and (1 + 2) / 2, of 3.
    assert sketch.densities(hashes) == pytest.approx([2 / 3, 1 / 2, 1 / 2])


def test_densities_are_mean_collisions_counted_pair_by_pair():
    hashes = SignHashes(functions=16, bits=3)
    found = hashes.hash(points(40))
    collisions = (found[:, None] == found[None]).mean(axis=(1, 2))
    assert sketched(hashes, points(40)).densities(found) == pytest.approx(collisions, rel=1e-12)


def test_two_points_collide_with_the_probability_of_their_angle():
    angle = 0.7
    pair = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], dtype=np.float32)
    hashes = SignHashes(functions=4000, bits=2).hash(pair)
    expected = (1 - angle / np.pi) ** 2
    error = (expected * (1 - expected) / 4000) ** 0.5
    assert (hashes[0] == hashes[1]).mean() == pytest.approx(expected, abs=4 * error)


def test_densities_approach_the_kernel_sum():
    found, bits = points(60), 4
    hashes = SignHashes(functions=2000, bits=bits)
    exact = kernels(found, found, bits).mean(axis=1)
    # Each function's mean of collisions is in [0, 1], with that mean: a variance of at most 1/4.
    bound = 4 * 0.5 / 2000**0.5
    assert sketched(hashes, found).densities(hashes.hash(found)) == pytest.approx(exact, abs=bound)


def test_parts_count_as_the_whole():
    hashes = SignHashes(functions=8, bits=4)
    found = hashes.hash(points(50))
    sketch = DensitySketch(hashes)
    for part in np.array_split(found, 7):
        sketch.add(part)
    assert (sketch.densities(found) == sketched(hashes, points(50)).densities(found)).all()


def test_hashes_of_a_point_do_not_depend_on_the_others():
    hashes, found = SignHashes(functions=64, bits=12), points(600)
    assert (hashes.hash(found)[500:] == hashes.hash(found[500:])).all()
    assert hashes.hash(found).max() < 1 << 12


@dataclass(frozen=True)
class Letters:
    """Embeds a text by its first letter; a tokenizer of letters, too."""

    kind: EmbeddingKind = "tfidf"
    path = Path()
    fingerprint = "f" * 64
    dimension = 3

    def embed(self, texts):
        return np.eye(3, dtype=np.float32)[[ord(text[0]) - ord("a") for text in texts]]

    def decode(self, tokens):
        return "".join(chr(ord("a") + token) for token in tokens)


def test_a_rare_document_scores_above_frequent_ones():
    hashes = SignHashes(functions=256, bits=16)
    scorer = DensityScorer(HashDocuments(Letters(), Letters(), hashes))
    documents = [np.array([0])] * 7 + [np.array([1])]
    parts = [scorer.passes[0](documents[:5]), scorer.passes[0](documents[5:])]
    scores = scorer.finish([lambda: iter(parts)])
    # At right angles, two collide with probability 2**-16: the score is the log of the share.
    assert scores == pytest.approx([np.log(8 / 7)] * 7 + [np.log(8)], abs=0.02)
    assert scorer.relative
    assert scorer.description == (
        "density: embedder ffffffffffffffff, 256 hashes of 16 bits, seed 0"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"functions": 0}, "hashes: expected at least 1, found 0"),
        ({"bits": 17}, "hash_bits: expected 1 <= N <= 16, found 17"),
        ({"seed": -1}, "seed: expected 0 <= N < 2"),
    ],
)
def test_hashes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SignHashes(**arguments)
