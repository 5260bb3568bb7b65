"""`megadga data score`: scores documents of shards, by which they can be selected."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from megadga.commands.command import Command
from megadga.commands.label import tokenizer_of_shards
from megadga.console import parse_step, parse_whole_number
from megadga.data.folder import ShardFolder
from megadga.data.manifest import check_score_name
from megadga.data.selection import read_scored
from megadga.errors import ConfigError
from megadga.prepare.progress import ProgressBars
from megadga.prepare.scoring.density import (
    DensityScorer,
    HashDocuments,
    SignHashes,
    open_embedder,
)
from megadga.prepare.scoring.scorers import Scorer
from megadga.prepare.scoring.shards import ScoredDocuments, digest_shards, score_documents
from megadga.prepare.workers import mpi_world_size, open_workers
from megadga.run_folder import CONFIG_FILE
from megadga.use.scorers.asking import PROMPT, Answers, AskingScorer
from megadga.use.scorers.influence import GradientSimilarities, InfluenceScorer, TargetSet
from megadga.use.scorers.models import ScoringModel, check_shards, identify_model
from megadga.use.scorers.perplexity import DocumentLosses, PerplexityScorer
from megadga.use.scorers.rates import learning_rates_at
from megadga.use.sources import ModelName

_EPILOG = """\
examples:
  megadga data score shards/generic --scorer density --embedder clusters
  megadga data score shards/generic --scorer perplexity --model runs/proxy
  megadga data score shards/generic --scorer ask-llm --model models/qwen-instruct
  megadga data score shards/generic --scorer influence --model runs/proxy --step 200 --step 400 \\
      --target shards/specific/pubmedqa --name pubmedqa

scores, of which `megadga data select` keeps the highest, or samples by exp(score / T):
  density      -log of the share of documents that are alike: high for rare ones
  perplexity   -log perplexity of a model: high for what it predicts well
  ask-llm      log P(yes), asked whether the document is informative
  influence    cosine of the document's gradient with a target's, as in LESS, over checkpoints

SHARDS/DOMAIN/train-*.NAME.scores has a float32 for each training document; the manifest says by
which scorer. MODEL is a run, a folder of transformers or a model on its hub. After an interruption
the same command continues. The result is identical for any number of workers; under mpirun, rank 0
distributes the work.
"""

_OPTIONS: Mapping[str, Sequence[str]] = {
    "density": ("embedder", "hashes", "hash_bits", "seed", "tokenizer"),
    "perplexity": ("model", "step", "revision", "sequence_length"),
    "ask-llm": ("model", "revision", "tokenizer", "prompt", "document_tokens"),
    "influence": (
        *("model", "step", "revision", "sequence_length"),
        *("target", "target_documents", "learning_rate", "similarity"),
    ),
}
"""The options of each scorer, beside those of all; of scorers with a model also ``_OF_MODELS``."""

_OF_MODELS = ("device", "dtype", "batch_size", "model_tokenizer")
_NEEDED = {
    "density": ("embedder",),
    "perplexity": ("model",),
    "ask-llm": ("model",),
    "influence": ("model", "target"),
}


def _at_least_1(text: str) -> int:
    return parse_whole_number(text, least=1)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("shards", type=Path, metavar="SHARDS", help="a folder of domains, or one domain's")
    add("--scorer", choices=tuple(_OPTIONS), required=True, help="see below")
    add("--name", metavar="NAME", help="of the scores (default: the scorer's)")
    add("--replace", action="store_true", help="remove other scores of that name first")
    add("--workers", type=int, metavar="N", help="processes (default: all cores; with a model 1, "
        "as each loads it and computes on one thread)")  # fmt: skip
    add = parser.add_argument_group("density").add_argument
    add("--embedder", type=Path, metavar="FOLDER", help="of megadga data cluster, or of a "
        "sentence-transformers model")  # fmt: skip
    add("--hashes", type=_at_least_1, metavar="N", help="hash functions (default: 512)")
    add("--hash-bits", type=_at_least_1, metavar="N", help="bits of each, in [1, 16]: the more, "
        "the more alike documents have to be (default: 12)")  # fmt: skip
    add("--seed", type=int, metavar="N", help="of the hash functions (default: 0)")
    _add_model_options(parser)
    add = parser.add_argument_group("ask-llm").add_argument
    add("--prompt", type=Path, metavar="FILE", help="question, with {document} in it (default: "
        "that of arXiv 2402.09668)")  # fmt: skip
    add("--document-tokens", type=_at_least_1, metavar="N", help="tokens of a document that are "
        "shown (default: 1024)")  # fmt: skip
    add = parser.add_argument_group("influence").add_argument
    add("--target", type=Path, action="append", metavar="SHARDS", help="a domain's folder, whose "
        "training documents are the target; repeatable: the largest influence counts")  # fmt: skip
    add("--target-documents", type=_at_least_1, metavar="N", help="read only the first N")
    add("--learning-rate", type=float, action="append", metavar="R", help="weight of each --step "
        "(default: what the run had logged there; 1 for other models)")  # fmt: skip
    add("--similarity", choices=("cosine", "dot"), help="dot: without dividing by norms, which "
        "takes less time for documents much shorter than a window (default: cosine)")  # fmt: skip


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("with a model").add_argument
    add("--model", metavar="MODEL", help="a run, a folder of transformers, a model on its hub")
    add("--step", type=parse_step, action="append", metavar="N", help="checkpoint of a run "
        "(default: the latest); repeatable for influence")  # fmt: skip
    add("--revision", metavar="NAME", help="branch, tag or commit of a model on the hub")
    add("--sequence-length", type=_at_least_1, metavar="S", help="tokens that are predicted at "
        "once (default: the model's own)")  # fmt: skip
    add("--batch-size", type=_at_least_1, metavar="N", help="windows of a pass (default: 8)")
    add("--device", metavar="NAME", help="as cpu or cuda:1 (default: an accelerator if any)")
    add("--dtype", choices=("fp32", "bf16", "fp16"), help="of weights and arithmetic (default: "
        "what the model was trained or stored in)")  # fmt: skip
    add("--model-tokenizer", type=Path, metavar="FILE", help="file that the shards were written "
        "with, of a model of transformers with equal tokens")  # fmt: skip
    add("--tokenizer", type=Path, metavar="FILE", help="tokenizer of the shards, for density and "
        "ask-llm (default: the copy beside them)")  # fmt: skip


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options of other scorers, and their absence where they are needed."""
    allowed = {*_OPTIONS[args.scorer]}
    if "model" in allowed:
        allowed |= {*_OF_MODELS}
    every = {name for names in _OPTIONS.values() for name in names} | {*_OF_MODELS}
    for name in sorted(every - allowed):
        if getattr(args, name) is not None:
            raise ConfigError(f"{_flag(name)}: expected none with --scorer {args.scorer}")
    for name in _NEEDED[args.scorer]:
        if getattr(args, name) is None:
            raise ConfigError(f"{_flag(name)}: expected with --scorer {args.scorer}, found none")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _score(args: argparse.Namespace) -> int:
    _check_options(args)
    name = args.name or args.scorer
    try:
        check_score_name(name)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from None
    alone = mpi_world_size(os.environ) == 1
    workers = 1 if args.workers is None and args.model is not None and alone else args.workers
    with open_workers(workers) as pool:
        if pool is None:
            return 0
        scorer = _SCORERS[args.scorer](args, read_scored(args.shards))
        with ProgressBars() as bars:
            found = score_documents(
                args.shards, name, scorer, pool, replace_scores=args.replace, stages=bars
            )
    if found is None:
        print(f"{args.shards}: all documents have the scores {name} already")
    else:
        print(_render(found))
    return 0


def _density(args: argparse.Namespace, folders: Sequence[ShardFolder]) -> Scorer:
    given = {"functions": args.hashes, "bits": args.hash_bits, "seed": args.seed}
    hashes = SignHashes(**{key: value for key, value in given.items() if value is not None})
    tokenizer = tokenizer_of_shards(args, args.shards, folders[0].manifest.tokenizer)
    return DensityScorer(HashDocuments(open_embedder(args.embedder), tokenizer, hashes))


def _models(args: argparse.Namespace) -> tuple[ScoringModel, ...]:
    """Return the model at each checkpoint that is named."""
    steps = args.step or [None]
    if args.scorer != "influence" and len(steps) > 1:
        raise ConfigError(f"--step: expected one with --scorer {args.scorer}, found {len(steps)}")
    named = [ModelName(args.model, step, args.revision) for step in steps]
    return tuple(
        ScoringModel(
            name,
            identify_model(name),
            args.device,
            args.dtype,
            args.model_tokenizer,
            args.batch_size or 8,
            args.sequence_length,
        )
        for name in named
    )


def _perplexity(args: argparse.Namespace, folders: Sequence[ShardFolder]) -> Scorer:
    (model,) = _models(args)
    check_shards(model, folders)
    return PerplexityScorer(DocumentLosses(model, folders[0].manifest.tokenizer.eod))


def _asking(args: argparse.Namespace, folders: Sequence[ShardFolder]) -> Scorer:
    if (Path(args.model) / CONFIG_FILE).exists():
        raise ConfigError(
            f"--model: expected an instruct model of transformers, found the run {args.model}"
        )
    (model,) = _models(args)
    tokenizer = tokenizer_of_shards(args, args.shards, folders[0].manifest.tokenizer)
    try:
        prompt = PROMPT if args.prompt is None else args.prompt.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompt: expected a file of text, found {error}") from None
    return AskingScorer(Answers(model, tokenizer, prompt, args.document_tokens or 1024))


def _influence(args: argparse.Namespace, folders: Sequence[ShardFolder]) -> Scorer:
    models = _models(args)
    check_shards(models[0], folders)
    targets: list[TargetSet] = []
    for path in args.target:
        found = read_scored(path)
        if len(found) != 1 or found[0].manifest.grouping is not None:
            raise ConfigError(f"--target {path}: expected the folder of one domain, found several")
        check_shards(models[0], found)
        targets.append(TargetSet(path.resolve(), digest_shards(*found), args.target_documents))
    rates = args.learning_rate
    if rates is None:
        rates = learning_rates_at(Path(args.model), [model.name.step for model in models])
    if len(rates) != len(models) or not all(0.0 < rate < float("inf") for rate in rates):
        raise ConfigError(
            f"--learning-rate: expected {len(models)} numbers above 0, one for each --step, "
            f"found {' '.join(map(str, rates))}"
        )
    eod = folders[0].manifest.tokenizer.eod
    similarity = args.similarity or "cosine"
    checkpoints = (
        GradientSimilarities(model, tuple(targets), eod, similarity) for model in models
    )
    return InfluenceScorer(tuple(checkpoints), tuple(rates))


_SCORERS: Mapping[str, Any] = {
    "density": _density,
    "perplexity": _perplexity,
    "ask-llm": _asking,
    "influence": _influence,
}


def _render(found: ScoredDocuments) -> str:
    """Return a table with the quantiles of the scores of each folder."""
    ends = np.cumsum([0, *found.folders.values()])
    rows: list[Sequence[str]] = [("domain", "documents", "lowest", "median", "highest")]
    for name, first, last in zip(found.folders, ends, ends[1:], strict=False):
        part = found.scores[first:last]
        quantiles = np.quantile(part, [0.0, 0.5, 1.0]) if part.size else [np.nan] * 3
        rows.append((name, f"{part.size:,}", *(f"{each:.4g}" for each in quantiles)))
    align = ("left", *["right"] * 4)
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)


SCORE = Command(
    "Score the training documents of shards, for `megadga data select`.",
    _add_options,
    _score,
    epilog=_EPILOG,
    continues=True,
)
