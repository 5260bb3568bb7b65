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
from megadga.prepare.tokenizers.base import Tokenizer
from megadga.prepare.tokenizers.loading import load_tokenizer
from trials.evidence_results import HELD_BACK, KEPT, TARGETS

VOCABULARY_SIZE = 8192
PIECE_TOKENS = 256
LEVELS = (64, 256, 4096)
"""Numbers of clusters, coarsest first."""
ROOT = Path("build/evidence")
"""What the files of the runs say."""
FEW_TARGET = "pubmedqa"
SHORT_TARGET = "mmlu_social_sciences"
SHORT_WINDOW = 128
VALID_DOCUMENTS = 500
"""Documents that are held out of a target set without splits."""


@dataclass(frozen=True)
class EvidenceFolder:
    """A corpus, and what is made of it in `ROOT`.

    Attributes:
        corpus: The folder of documents.
    """

    corpus: Path

    @property
    def clustering(self) -> Path:
        """Clusters at `LEVELS`, and the embedding that tells which domains texts are close to."""
        return ROOT / "clustering"

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model."""
        return ROOT / "tokenizer.model"

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


def targets_root(tokens: str) -> Path:
    """Return the folder of the shards of `targets` with so many tokens of a domain."""
    names = {"20k": "few_tokens", "all": "targets"}
    return ROOT / names.get(tokens, f"targets_{tokens}")


def clusters_root(number: int) -> Path:
    """Return the folder of the shards of so many clusters, and of histograms over them."""
    return ROOT / "clusters" / str(number)


def short_target_root(examples: int) -> Path:
    """Return the folder of the shards of the target of `clusters`, of so many sequences."""
    return ROOT / "clusters" / "specific" / str(examples)


def prepare(
    folder: EvidenceFolder,
    *,
    tokens: Collection[str],
    few_tokens: bool = False,
    histograms: bool = False,
) -> None:
    """Make the tokenizer, and what runs on targets read: shards, histograms.

    Args:
        folder: What of.
        tokens: Kept of each domain, of `TOKENS`: each number makes shards of its own.
        few_tokens: Whether the experiment of that name is to run.
        histograms: Whether runs need to know to which domain each target's texts are close.

    Raises:
        MegadgaError: If the corpus lacks something, or a tool fails; it has said why.
    """
    _prepare_tokenizer(folder)
    if histograms or few_tokens:
        _prepare_clustering(folder)
    tokenizer = load_tokenizer(folder.tokenizer)
    if few_tokens:
        _keep_few(folder, tokenizer, targets_root("20k"), KEPT["20k"])
        _prepare_few_tokens(folder)
    if tokens:
        _prepare_targets(folder, tokenizer, tokens, histograms=histograms)


def prepare_clusters(folder: EvidenceFolder, cells: Collection[tuple[int, int]]) -> None:
    """Make what the experiment `clusters` reads: tokenizer, clustering, shards, histograms.

    Args:
        folder: What of.
        cells: How many clusters, one of `LEVELS`, and how many specific sequences.

    Raises:
        MegadgaError: If the corpus lacks something, or a tool fails; it has said why.
    """
    _prepare_tokenizer(folder)
    _prepare_clustering(folder)
    tokenizer = load_tokenizer(folder.tokenizer)
    for examples in sorted({examples for _, examples in cells}):
        _prepare_short_target(folder, tokenizer, examples)
    for number, examples in cells:
        _prepare_level(folder, number, examples)


def _prepare_tokenizer(folder: EvidenceFolder) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    if not folder.tokenizer.exists():
        prefix = ["--output", str(folder.tokenizer.with_suffix(""))]
        size = ["--vocab-size", str(VOCABULARY_SIZE)]
        _data("tokenizer", "--input", *_domains(folder), *size, *prefix)


def _prepare_clustering(folder: EvidenceFolder) -> None:
    if not folder.clustering.exists():
        levels = ["--levels", *map(str, LEVELS)]
        output = ["--output", str(folder.clustering)]
        _data("cluster", "--input", *_domains(folder), *levels, *_pieces(folder), *output)


def _domains(folder: EvidenceFolder) -> list[str]:
    return [str(path) for path in folder.domain_files()]


def _keep_few(folder: EvidenceFolder, tokenizer: Tokenizer, root: Path, kept: int) -> None:
    """Keep so many tokens of each domain."""
    documents = root / "documents"
    for path in folder.domain_files():
        few = documents / f"{path.name.partition('.')[0]}.jsonl"
        if not few.exists():
            _write_texts(few, _first_tokens(_shuffled([path]), tokenizer, kept))
    _build(folder, [str(path) for path in sorted(documents.iterdir())], root / "domains")


def _prepare_few_tokens(folder: EvidenceFolder) -> None:
    """Build the target; find out to which domain its texts are close."""
    root = targets_root("20k")
    target = [str(path) for path in folder.target_files(FEW_TARGET)]
    _build(folder, target, root / "specific")
    if not (root / "histogram.json").exists():
        shares = _nearest_domains(folder, FEW_TARGET, sorted((root / "documents").iterdir()))
        write_histogram(root / "histogram.json", shares)


def _prepare_short_target(folder: EvidenceFolder, tokenizer: Tokenizer, examples: int) -> None:
    """Keep so many windows of the target; the same documents are held out for any number."""
    every, valid = _target_splits(folder, SHORT_TARGET)
    kept = _short_documents(examples)
    if not kept.exists():
        most = examples * SHORT_WINDOW + 1
        _write_texts(kept, _first_tokens(read_texts([every]), tokenizer, most))
    _build(folder, [str(kept), str(valid)], short_target_root(examples))


def _short_documents(examples: int) -> Path:
    return ROOT / "clusters" / "documents" / str(examples) / f"{SHORT_TARGET}.train.jsonl"


def _prepare_level(folder: EvidenceFolder, number: int, examples: int) -> None:
    """Build so many clusters; measure so many windows of the target, and the other targets."""
    root = clusters_root(number)
    clusters = ["--clusters", str(folder.clustering), "--level", str(number)]
    pieces = ["--piece-tokens", str(PIECE_TOKENS)]
    _build(folder, _domains(folder), root / "domains", *clusters, *pieces)
    measure = [*clusters, *_pieces(folder), "--output"]
    histogram = root / "histograms" / f"{examples}.json"
    if not histogram.exists():
        histogram.parent.mkdir(exist_ok=True)
        own = ["--input", f"{SHORT_TARGET}={_short_documents(examples)}"]
        _data("histogram", *measure, str(histogram), *own)
    if not (root / "basis.npz").exists():
        others = [
            f"{name}={folder.corpus}/specific/{name}.*"
            for name in folder.target_names()
            if name != SHORT_TARGET
        ]
        _data("histogram", *measure, str(root / "basis.npz"), "--input", *others)


def _prepare_targets(
    folder: EvidenceFolder, tokenizer: Tokenizer, tokens: Collection[str], *, histograms: bool
) -> None:
    """Build so many tokens of each domain, but for a few documents if all, and every target."""
    names = (*TARGETS, *HELD_BACK)
    splits = [str(path) for name in names for path in _target_splits(folder, name)]
    _build(folder, splits, targets_root("all") / "specific")
    for name in tokens:
        root = targets_root(name)
        if name == "all":
            documents = folder.domain_files()
            _build(folder, _domains(folder), root / "domains", valid_fraction="0.002")
        else:
            _keep_few(folder, tokenizer, root, KEPT[name])
            documents = sorted((root / "documents").iterdir())
        for target in names if histograms else ():
            histogram = root / "histograms" / f"{target}.json"
            if not histogram.exists():
                histogram.parent.mkdir(exist_ok=True)
                write_histogram(histogram, _nearest_domains(folder, target, documents))


def _target_splits(folder: EvidenceFolder, name: str) -> tuple[Path, Path]:
    """Return the files to train on and to evaluate on; of a set without splits, make them."""
    files = folder.target_files(name)
    if len(files) > 1:
        train, valid = files
        return train, valid
    documents = targets_root("all") / "documents"
    train, valid = (documents / f"{name}.{split}.jsonl" for split in ("train", "valid"))
    if not valid.exists():
        texts = _shuffled(files)
        _write_texts(train, texts[VALID_DOCUMENTS:])
        _write_texts(valid, texts[:VALID_DOCUMENTS])
    return train, valid


def _nearest_domains(
    folder: EvidenceFolder, target: str, documents: list[Path]
) -> dict[str, float]:
    """Return the share of the target's texts whose nearest centre is each domain's."""
    embedder = Clustering.load(folder.clustering).embedder
    points = [embedder.embed(list(read_texts([path]))).mean(axis=0) for path in documents]
    centres = unit_rows(np.array(points))
    train, _ = _target_splits(folder, target)
    nearest = (embedder.embed(list(read_texts([train]))) @ centres.T).argmax(axis=1)
    shares = np.bincount(nearest, minlength=len(documents)) / nearest.size
    names = [path.name.partition(".")[0] for path in documents]
    return dict(zip(names, shares.tolist(), strict=True))


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
