"""Prepares what the runs under ``configs/evidence`` read, by the commands that anybody would use.

What is there is not made again. The corpus is a folder of documents, one file per domain
(``NAME.jsonl.gz``), with a folder ``specific`` of target sets: each ``NAME.jsonl.gz``, or a pair
``NAME.train.jsonl.gz``, ``NAME.valid.jsonl.gz``.
"""

import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.errors import ConfigError, MegadgaError
from megadga.mixers.importance import write_histogram
from megadga.prepare.clustering.clusters import Clustering
from megadga.prepare.clustering.embedding import unit_rows
from megadga.prepare.reading.documents import read_texts
from megadga.prepare.tokenizer import Tokenizer, load_tokenizer

VOCABULARY_SIZE = 8192
PIECE_TOKENS = 256
NUM_CLUSTERS = 256
FEW_TOKENS = 20_000
"""Of each domain of the first experiment."""
FEW_TARGET = "pubmedqa"
TARGETS = (
    "pubmedqa",
    "black_python",
    "wikipedia_prose",
    "hott_book",
    "licenses",
    "detective_fiction",
)
"""Sets of the third experiment, each with splits of its own."""
SHORT_TARGET = "mmlu_social_sciences"
SHORT_TOKENS = 8 * 128 + 1
"""Eight windows of 128 tokens and their targets."""
VALID_DOCUMENTS = 500
"""Documents of the short target that are held out."""


@dataclass(frozen=True)
class EvidenceFolder:
    """What is made of a corpus, and where.

    Attributes:
        corpus: The folder of documents.
        root: Gets everything; the runs' files name what is in it.
    """

    corpus: Path
    root: Path

    @property
    def clustering(self) -> Path:
        """The clusters of the second experiment, whose embedding the first one uses too."""
        return self.root / "clustering"

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return self.root / "tokenizer.model"

    def domain_files(self) -> list[Path]:
        """Return the domains' files, in order.

        Raises:
            ConfigError: If there is none.
        """
        if not (files := sorted(self.corpus.glob("*.jsonl.gz"))):
            raise ConfigError(f"{self.corpus}: expected files NAME.jsonl.gz, found none")
        return files

    def target_files(self, name: str) -> list[Path]:
        """Return a target set's file, or both its splits.

        Raises:
            ConfigError: If there is none.
        """
        where = self.corpus / "specific"
        if not (files := sorted(where.glob(f"{name}.*"))):
            raise ConfigError(f"{where}: expected files {name}.*, found none")
        return files

    def target_names(self) -> list[str]:
        """Return the names of all target sets, in order."""
        return sorted({path.name.partition(".")[0] for path in self.corpus.glob("specific/*.gz")})


def prepare(folder: EvidenceFolder, experiments: Collection[str]) -> None:
    """Make the tokenizer, and what some experiments read: clustering, shards, histograms.

    Raises:
        MegadgaError: If the corpus lacks something, or a tool fails; it has said why.
    """
    domains = [str(path) for path in folder.domain_files()]
    folder.root.mkdir(parents=True, exist_ok=True)
    if not folder.tokenizer.exists():
        prefix = ["--output", str(folder.tokenizer.with_suffix(""))]
        size = ["--vocab-size", str(VOCABULARY_SIZE)]
        _data("tokenizer", "--input", *domains, *size, *prefix)
    if {"few_tokens", "sensitivity", "clusters"} & set(experiments) and (
        not folder.clustering.exists()
    ):
        levels = ["--levels", str(NUM_CLUSTERS)]
        output = ["--output", str(folder.clustering)]
        _data("cluster", "--input", *domains, *levels, *_pieces(folder), *output)
    tokenizer = load_tokenizer(folder.tokenizer)
    _prepare_few_domains(folder, tokenizer)
    if {"few_tokens", "sensitivity"} & set(experiments):
        _prepare_few_tokens(folder)
    if "clusters" in experiments:
        _prepare_clusters(folder, tokenizer)
    if "targets" in experiments:
        _prepare_targets(folder)


def _prepare_few_domains(folder: EvidenceFolder, tokenizer: Tokenizer) -> None:
    """Keep 20,000 tokens of each domain."""
    root = folder.root / "few_tokens"
    documents = root / "documents"
    for path in folder.domain_files():
        kept = documents / f"{path.name.partition('.')[0]}.jsonl"
        if not kept.exists():
            _write_texts(kept, _first_tokens(_shuffled([path]), tokenizer, FEW_TOKENS))
    _build(folder, [str(path) for path in sorted(documents.iterdir())], root / "domains")


def _prepare_few_tokens(folder: EvidenceFolder) -> None:
    """Build the target; find out to which domain its texts are close."""
    root = folder.root / "few_tokens"
    target = [str(path) for path in folder.target_files(FEW_TARGET)]
    _build(folder, target, root / "specific")
    if not (root / "histogram.json").exists():
        shares = _nearest_domains(folder, sorted((root / "documents").iterdir()))
        write_histogram(root / "histogram.json", shares)


def _prepare_clusters(folder: EvidenceFolder, tokenizer: Tokenizer) -> None:
    """Build the clusters; keep eight windows of the target; measure it and the other targets."""
    root = folder.root / "clusters"
    train, valid = (root / "documents" / f"{SHORT_TARGET}.{s}.jsonl" for s in ("train", "valid"))
    if not valid.exists():
        texts = _shuffled(folder.target_files(SHORT_TARGET))
        _write_texts(train, _first_tokens(texts[VALID_DOCUMENTS:], tokenizer, SHORT_TOKENS))
        _write_texts(valid, texts[:VALID_DOCUMENTS])
    _build(folder, [str(train), str(valid)], root / "specific")
    clusters = ["--clusters", str(folder.clustering), "--level", str(NUM_CLUSTERS)]
    domains = [str(path) for path in folder.domain_files()]
    pieces = ["--piece-tokens", str(PIECE_TOKENS)]
    _build(folder, domains, root / "domains", *clusters, *pieces)
    measure = [*clusters, *_pieces(folder), "--output"]
    if not (root / "histogram.json").exists():
        own = ["--input", f"{SHORT_TARGET}={train}"]
        _data("histogram", *measure, str(root / "histogram.json"), *own)
    if not (root / "basis.npz").exists():
        others = [
            f"{name}={folder.corpus}/specific/{name}.*"
            for name in folder.target_names()
            if name != SHORT_TARGET
        ]
        _data("histogram", *measure, str(root / "basis.npz"), "--input", *others)


def _prepare_targets(folder: EvidenceFolder) -> None:
    """Build all tokens of each domain but a few documents, and every target."""
    root = folder.root / "targets"
    _build(folder, list(map(str, folder.domain_files())), root / "domains", valid_fraction="0.002")
    targets = [str(path) for name in TARGETS for path in folder.target_files(name)]
    _build(folder, targets, root / "specific")


def _nearest_domains(folder: EvidenceFolder, documents: list[Path]) -> dict[str, float]:
    """Return the share of the target's texts whose nearest centre is each domain's."""
    embedder = Clustering.load(folder.clustering).embedder
    points = [embedder.embed(list(read_texts([path]))).mean(axis=0) for path in documents]
    centres = unit_rows(np.array(points))
    train = [path for path in folder.target_files(FEW_TARGET) if ".valid." not in path.name]
    nearest = (embedder.embed(list(read_texts(train))) @ centres.T).argmax(axis=1)
    shares = np.bincount(nearest, minlength=len(documents)) / nearest.size
    return {path.stem: share for path, share in zip(documents, shares.tolist(), strict=True)}


def _shuffled(paths: list[Path]) -> list[str]:
    """Return all texts of some files, in an order that depends on nothing else."""
    texts = list(read_texts(paths))
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]


def _first_tokens(texts: Iterable[str], tokenizer: Tokenizer, most: int) -> Iterator[str]:
    """Yield texts up to so many tokens, the ends of documents counted; the last one is cut."""
    for text in texts:
        tokens = tokenizer.encode([text])[0][: most - 1]
        yield tokenizer.decode(tokens)
        most -= tokens.size + 1
        if most <= 1:
            return


def _write_texts(path: Path, texts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    partial.rename(path)


def _build(
    folder: EvidenceFolder,
    inputs: list[str],
    output: Path,
    *options: str,
    valid_fraction: str = "0",
) -> None:
    if not output.exists():
        whole = ["--tokenizer", str(folder.tokenizer), "--valid-fraction", valid_fraction]
        _data("build", "--input", *inputs, *whole, "--output", str(output), *options)


def _pieces(folder: EvidenceFolder) -> list[str]:
    return ["--tokenizer", str(folder.tokenizer), "--piece-tokens", str(PIECE_TOKENS)]


def _data(name: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "megadga.cli", "data", name, *arguments]
    if status := subprocess.run(command, check=False).returncode:  # noqa: S603  (our own command)
        raise MegadgaError(f"megadga data {name}: expected it to end with 0, found {status}")
