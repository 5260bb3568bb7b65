"""`megadga evaluate`: a model's losses on sets, its answers to questions."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from megadga.commands.command import Command
from megadga.commands.model import MODEL, add_model_options, load_model, named_model
from megadga.config.loading import load_config
from megadga.console import count
from megadga.errors import ConfigError
from megadga.launch.quiet import library_prints, quieten
from megadga.launch.ranks import rank_for_messages, read_ranks
from megadga.prepare.progress import ProgressBars
from megadga.run_folder import CONFIG_FILE
from megadga.run_folder.checkpoints import CHECKPOINTS, latest_checkpoint
from megadga.run_folder.failures import record_failures
from megadga.train.data import open_held_out
from megadga.train.paths import no_checkpoint
from megadga.train.revision_files import recorded_data, revised_config
from megadga.train.saved import SavedRun
from megadga.use.questions import FIELD, TEMPLATE, read_questions
from megadga.use.sets import (
    EvaluatedSet,
    SetOptions,
    ShardSet,
    check_fingerprint,
    is_shards,
    open_document_set,
    open_shard_sets,
    parse_sets,
)

if TYPE_CHECKING:
    from megadga.use.choosing import ChoiceScore
    from megadga.use.loading import CausalLm
    from megadga.use.scoring import SetScore

_EPILOG = f"""\
MODEL is one of

{MODEL}\
  run.yaml             the configuration of a run, see the last paragraph

examples:
  megadga evaluate runs/example
  megadga evaluate runs/example --step 4000 --set law=shards/law --set news=text/news.jsonl.gz
  megadga evaluate models/example --set law=shards/law --split valid --json > law.json
  megadga evaluate models/example --multiple-choice mmlu.jsonl

Without --set, a run is evaluated on the validation splits that its configuration names: windows,
tokens and losses are those of its own evaluations, on as many windows as these read
(evaluation.sequences) unless --limit says otherwise.

A set is a folder of shards, of one domain or of many, or a file or folder of documents (.txt,
.jsonl, .jsonl.gz, .jsonl.zst, .parquet), which are tokenized with the model's tokenizer and ended
by EOD. Its tokens, one document after the other, are cut into windows of --sequence-length
targets. A token is predicted from those before it in its window, and every token is a target once;
of shards, what is left after the last whole window is not read, as in training. Of dialogues
(`megadga data build --chat`) the trained tokens alone are targets.

  loss         mean in nats per token, EOD included
  bits/byte    the sum of the losses over the bytes of text (UTF-8): of the documents or, of shards
               and under --limit, of the decoded tokens
  perplexity   exponential of the loss

Each line of a --multiple-choice FILE is {{"question": ..., "choices": [...], "answer": ...}} with
the index (from 0) or letter of the right choice. The model chooses the choice of the largest
log-likelihood after the question (accuracy), or of the largest per byte (accuracy per byte): acc
and acc_bytes of lm-eval.

With a configuration file, the run's latest checkpoint is evaluated on its sets by the engine that
trains, under any launcher, on as many ranks as the run has; --set overrides a key then, as
--set evaluation.sets='{{law: {{path: shards/law}}}}', other options are refused, and losses are
appended to evaluations.jsonl in the run's folder.
"""
_ONLY_MODELS = (
    *("step", "revision", "tokenizer", "device", "dtype", "trust_remote_code", "split"),
    *("sequence_length", "batch_size", "limit", "text_key", "multiple_choice", "template", "json"),
)
_BATCH_SIZE = 8


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="evaluate on shards or documents; repeatable. With a configuration file: override a "
        "key, KEY=VALUE",
    )
    add("--split", choices=("train", "valid"), help="split of shards (default: all)")
    add(
        "--sequence-length",
        type=count,
        metavar="S",
        help="targets of a window (default: of a run its own, of others as many as they read, at "
        "most 2,048)",
    )
    add(
        "--limit", type=count, metavar="N", help="maximum number of windows of a set, of questions"
    )
    add(
        "--batch-size",
        type=count,
        metavar="N",
        help=f"windows or choices of a forward pass ({_BATCH_SIZE})",
    )
    add("--text-key", metavar="KEY", help="key of the text in records (text)")
    add("--multiple-choice", type=Path, metavar="FILE", help="answer questions (JSON lines)")
    add(
        "--template",
        metavar="TEXT",
        help=f"what stands before a choice and a space ({TEMPLATE!r})".replace("%", "%%"),
    )
    add("--json", action="store_true", default=None, help="print JSON instead of tables")
    add_model_options(parser)


def _evaluate(options: argparse.Namespace) -> int:
    path = Path(options.model)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        for name in _ONLY_MODELS:
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                expected = "the folder of a run or model, or a model on the hub"
                raise ConfigError(f"{option}: expected {expected}, found the file {path}")
        return _evaluate_config(path, options.sets)
    ranks = read_ranks(os.environ).world_size
    if ranks > 1:
        expected = "a single process, or a configuration file"
        raise ConfigError(f"{path}: expected {expected}, found {ranks} ranks")
    return _evaluate_model(options)


def _evaluate_model(options: argparse.Namespace) -> int:
    sets = parse_sets(options.sets)
    file: Path | None = options.multiple_choice
    template = options.template or TEMPLATE
    if FIELD not in template:
        raise ConfigError(f"--template: expected {FIELD} in it, found {template!r}")
    questions = None if file is None else read_questions(file, limit=options.limit)
    found = named_model(options)
    own = found if not sets and file is None and isinstance(found, SavedRun) else None
    if not sets and file is None and own is None:
        expected = "sets or --multiple-choice, as it is no run"
        raise ConfigError(f"--set: expected {expected}, found none")
    if own is not None and options.split == "train":
        raise ConfigError("--split: expected valid without --set, found train")
    with ProgressBars() as bars:
        model = load_model(options, found, bars)
        from megadga.use.choosing import answer_questions  # noqa: PLC0415
        from megadga.use.scoring import score_set  # noqa: PLC0415

        size = options.batch_size or _BATCH_SIZE
        opened = (
            _open_sets(options, model, sets) if own is None else _own_sets(options, model, own)
        )
        scores = [score_set(model, each, batch_size=size, stages=bars) for each in opened]
        answers = None
        if file is not None and questions is not None:
            answers = answer_questions(
                model, file, questions, template=template, batch_size=size, stages=bars
            )
    if options.json:
        print(json.dumps(_as_json(model, scores, answers), indent=2))
    else:
        print("\n\n".join(_tables(model, scores, answers)))
    return 0


def _own_sets(
    options: argparse.Namespace, model: "CausalLm", run: SavedRun
) -> Sequence[EvaluatedSet]:
    """Open the sets that a run evaluates: of the data that its checkpoint was trained on."""
    length = options.sequence_length or model.sequence_length
    _check_length(model, length)
    path = Path(options.model) / CONFIG_FILE
    config = load_config(path, [f"model.sequence_length={length}"])
    config = config.model_copy(update={"output": Path(options.model)})  # it may have moved
    if (revised := recorded_data(config, run.checkpoint)) is not None:
        config = revised_config(config, revised)
    section = config.evaluation
    opened = () if section is None else open_held_out(config)
    if section is None or not opened:
        raise ConfigError(
            f"--set: expected sets, as {path} names none with a validation split, found none"
        )
    for each in opened:
        check_fingerprint(each.folder, each.tokenizer.fingerprint, model.found.fingerprints)
    limit = options.limit or section.sequences
    return [ShardSet(each.name, "valid", each, limit) for each in opened]


def _open_sets(
    options: argparse.Namespace, model: "CausalLm", sets: dict[str, Path]
) -> Sequence[EvaluatedSet]:
    length = options.sequence_length or model.sequence_length
    _check_length(model, length)
    how = SetOptions(length, options.split, options.limit, options.text_key or "text")
    opened: list[EvaluatedSet] = []
    for name, path in sets.items():
        if is_shards(path):
            found, notes = open_shard_sets(name, path, how, fingerprints=model.found.fingerprints)
            opened += found
            for note in notes:
                print(f"{options.prog}: {note}", file=sys.stderr)
        else:
            tokenizer = model.needed_tokenizer()
            opened.append(open_document_set(name, path, how, tokenizer=tokenizer))
    return opened


def _check_length(model: "CausalLm", length: int) -> None:
    if model.positions is not None and length > model.positions:
        expected = f"at most {model.positions:,}, as many tokens as the model reads"
        raise ConfigError(f"--sequence-length: expected {expected}, found {length:,}")


def _as_json(
    model: "CausalLm", scores: Sequence["SetScore"], answers: "ChoiceScore | None"
) -> dict[str, Any]:
    return {
        "model": model.name,
        "step": model.step,
        "dtype": model.dtype,
        "sets": [score.as_json() for score in scores],
        "multiple_choice": None if answers is None else answers.as_json(),
    }


def _tables(
    model: "CausalLm", scores: Sequence["SetScore"], answers: "ChoiceScore | None"
) -> list[str]:
    step = "" if model.step is None else f", step {model.step:,}"
    parts = [f"{model.name}{step}, in {model.dtype}"]
    if scores:
        rows = [("set", "split", "tokens", "bytes", "loss", "bits/byte", "perplexity")]
        for one in scores:
            size = "-" if one.text_bytes is None else f"{one.text_bytes:,}"
            bits = "-" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}"
            numbers = (f"{one.loss:.4f}", bits, f"{one.perplexity:,.2f}")
            rows.append((one.name, one.split or "-", f"{one.tokens:,}", size, *numbers))
        parts.append(_table(rows, numbers_from=2))
        if model.found.tokenizer is None:
            parts.append(f"without bytes: {model.found.missing}")
    if answers is not None:
        shares = (answers.accuracy, answers.accuracy_per_byte, answers.chance)
        rows = [
            ("file", "questions", "accuracy", "accuracy per byte", "by chance"),
            (str(answers.file), f"{len(answers.answered):,}", *(f"{each:.4f}" for each in shares)),
        ]
        parts.append(_table(rows, numbers_from=1))
        if answers.truncated:
            parts.append(f"{answers.truncated:,} contexts lost their beginnings: too long")
    return parts


def _table(rows: Sequence[Sequence[str]], *, numbers_from: int) -> str:
    align = ["left" if column < numbers_from else "right" for column in range(len(rows[0]))]
    # The titles as a row: as headers they would widen every column by two.
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)


def _evaluate_config(path: Path, overrides: Sequence[str]) -> int:
    """Evaluate a run's latest checkpoint with its engine, on its ranks. Collective."""
    config = load_config(path, overrides)
    if config.evaluation is None:
        raise config.invalid("evaluation", expected="a section", found="null")
    # A single rank looks for the checkpoint before torch is imported.
    alone = read_ranks(os.environ).world_size == 1
    if alone and latest_checkpoint(config.output / CHECKPOINTS) is None:
        raise no_checkpoint(config)
    rank = rank_for_messages(os.environ)
    quieten(os.environ, rank=rank)
    from megadga.train.assembly import open_run  # noqa: PLC0415
    from megadga.train.loop import evaluate  # noqa: PLC0415
    from megadga.train.metrics import MetricsFile  # noqa: PLC0415

    with record_failures(config.output, rank=rank), ExitStack() as stack:
        with library_prints(os.environ, rank=rank):
            run = stack.enter_context(open_run(config, evaluate_only=True))
        metrics, step = evaluate(run), run.mixture.step
    if rank == 0 and metrics:
        MetricsFile(config.output / "evaluations.jsonl").log(step, metrics)
        losses = {**metrics["evaluation"]["specific"], **metrics["evaluation"]["domains"]}
        print("\n".join(f"step {step}: {name} {loss:.4f}" for name, loss in losses.items()))
    return 0


EVALUATE = Command(
    "Measure a model's loss, bits per byte and perplexity on sets, or its answers to questions.",
    _add_options,
    _evaluate,
    epilog=_EPILOG,
    on_ranks=True,
)
