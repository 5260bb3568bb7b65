"""`megadga batch`: the sequences of any step of a run, planned again from its folder."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from megadga.arrays import IntArray, TokenArray
from megadga.commands.command import Command
from megadga.console import count, shows_bars
from megadga.data.located import DocumentPart, documents_of_window
from megadga.data.reader import read_windows
from megadga.data.sampler import Selection
from megadga.data.targets import BoolArray, unmark_targets
from megadga.errors import ConfigError
from megadga.prepare.tokenizers.kept import find_tokenizer, kept_file
from megadga.train.replay import PlannedBatch, RecordedRun, open_recorded

_EPILOG = """\
examples:
  megadga batch runs/example --step 4711                     # what the model saw at a spike
  megadga batch runs/example --step 4711 --domain code --full
  megadga batch runs/example --step 4711 --rows 0-7,12 --json > batch.json

A row is a sequence of the global batch: S + 1 tokens, window number WINDOW of its domain.
Documents are numbers in a shard, as train-00000 17[120:],18,19[:40]: document 17 from its
token 120 to its end, then 18, then 19 up to its token 40. The loss is the mean over the
domain's sequences in this step. Text is cut in the middle; --full prints all of it, and all
documents. A | in it is where one document ends and the next begins.

The batch is planned from the seed and the log, bit for bit, after any number of resumes. It
works while the run trains. A step that has not been trained is exact up to the next update of
the weights; after that, what is printed is a prediction at the present weights, and says so.
"""
_SHOWN = 30
"""Characters that are shown of either end of a text."""
_DOCUMENTS = 3
_END = "|"
"""Shown where a document ends and the next one begins."""


@dataclass(frozen=True)
class _Sequence:
    """A sequence of the batch; ``texts`` are those of its documents' parts, if there are any.

    ``targets``: whether each token is trained; None: all but the first are.
    """

    row: int
    rank: int
    micro_batch: int
    domain: str
    window: int
    epoch: int
    loss_of_domain: float | None
    documents: tuple[DocumentPart, ...]
    tokens: TokenArray
    targets: BoolArray | None
    texts: tuple[str, ...] | None


def _rows(text: str) -> list[tuple[int, int]]:
    """Parse numbers and ranges: ``0-7,12``."""
    if re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected rows such as 0-7,12, found {text[:80]!r}")
    parts = [part.partition("-") for part in text.split(",")]
    return [(int(first), int(last or first)) for first, _, last in parts]


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's output folder")
    add("--step", type=count, required=True, metavar="N", help="optimizer step, from 1")
    add("--rows", type=_rows, metavar="ROWS", help="only these rows, as 0-7,12")
    add("--domain", metavar="NAME", help="only sequences of this domain")
    add("--full", action="store_true", help="print whole texts, and all documents")
    add("--json", action="store_true", help="print JSON, with the token ids")
    add(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer to decode with (default: the copy that is kept with the shards)",
    )


def _batch(options: argparse.Namespace) -> int:
    run = open_recorded(options.run, step=options.step)
    rows_of = _chosen(run, options.domain)
    with tqdm(unit=" steps", desc="planning", disable=not shows_bars(), delay=1.0) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        batch = run.batch(options.step, progress=progress)
    chosen = rows_of(batch, options.rows)
    decode = _decoder(run, options.tokenizer)
    sequences = list(_sequences(run, batch, chosen, decode))
    if options.json:
        print(json.dumps(_as_json(run, batch, sequences), ensure_ascii=False))
        return 0
    print(_heading(run, batch))
    print(_in_full(sequences) if options.full else _table(sequences))
    return 0


def _chosen(
    run: RecordedRun, name: str | None
) -> Callable[[PlannedBatch, Sequence[tuple[int, int]] | None], IntArray]:
    """Return what chooses the rows of a batch; a domain that is unknown is an error at once."""
    names = [domain.name for domain in run.domains]
    if name is not None and name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"--domain: expected a domain of {run.folder}, found {name!r}{hint}")

    def rows(batch: PlannedBatch, ranges: Sequence[tuple[int, int]] | None) -> IntArray:
        size = batch.domains.size
        chosen = np.ones(size, dtype=np.bool_)
        if ranges is not None:
            chosen[:] = False
            for first, last in ranges:
                if not first <= last < size:
                    expected = f"rows from 0 to {size - 1}, the first of a range first"
                    raise ConfigError(f"--rows: expected {expected}, found {first}-{last}")
                chosen[first : last + 1] = True
        if name is not None:
            chosen &= batch.domains == names.index(name)
        return np.flatnonzero(chosen).astype(np.int64)

    return rows


def _decoder(run: RecordedRun, given: Path | None) -> Callable[[TokenArray], str] | None:
    """Return what decodes the run's tokens; None, with a note, if there is no tokenizer."""
    identity = run.domains[0].tokenizer
    if given is None and kept_file(run.config, identity.fingerprint) is None:
        print(
            "no text: the tokenizer's file is not kept with the shards; name it: --tokenizer FILE",
            file=sys.stderr,
        )
        return None
    found = find_tokenizer(
        run.config, fingerprint=identity.fingerprint, eod=identity.eod, given=given
    )
    return found.ours.decode


def _sequences(
    run: RecordedRun,
    batch: PlannedBatch,
    rows: IntArray,
    decode: Callable[[TokenArray], str] | None,
) -> Iterator[_Sequence]:
    losses: dict[str, float] = {} if batch.train is None else batch.train["loss_by_domain"]
    tokens = read_windows(run.domains, Selection(batch.domains[rows], batch.windows[rows]))
    for row, marked in zip(rows.tolist(), tokens, strict=True):
        domain, window = run.domains[int(batch.domains[row])], int(batch.windows[row])
        documents = documents_of_window(domain, window)
        ids, trained = unmark_targets(marked)
        yield _Sequence(
            row,
            int(batch.ranks[row]),
            int(batch.micro_batches[row]),
            domain.name,
            window,
            int(batch.epochs[row]),
            losses.get(domain.name),
            documents,
            ids,
            None if trained.all() else trained,
            None if decode is None else tuple(_texts(documents, ids, decode)),
        )


def _texts(
    documents: Sequence[DocumentPart], ids: TokenArray, decode: Callable[[TokenArray], str]
) -> Iterator[str]:
    """Yield the text of each part of a window: where a document ends, no text would show it."""
    begin = 0
    for part in documents:
        end = begin + part.end - part.begin
        yield decode(ids[begin:end])
        begin = end


def _as_json(
    run: RecordedRun, batch: PlannedBatch, sequences: Sequence[_Sequence]
) -> dict[str, Any]:
    def documents(sequence: _Sequence) -> list[dict[str, Any]]:
        texts = sequence.texts or [None] * len(sequence.documents)
        return [
            {**asdict(part), "shard": str(part.shard), "text": text}
            for part, text in zip(sequence.documents, texts, strict=True)
        ]

    def values(sequence: _Sequence) -> dict[str, Any]:
        return {name: value for name, value in vars(sequence).items() if name != "texts"}

    return {
        "run": str(run.folder),
        "step": batch.step,
        "trained": batch.train is not None,
        "exact": batch.is_exact,
        "train": batch.train,
        "sequences": [
            {
                **values(each),
                "documents": documents(each),
                "tokens": each.tokens.tolist(),
                "targets": None if each.targets is None else each.targets.tolist(),
            }
            for each in sequences
        ],
    }


def _heading(run: RecordedRun, batch: PlannedBatch) -> str:
    which = f"step {batch.step:,} of {run.config.training.steps:,}"
    if (train := batch.train) is not None:
        numbers = {
            "loss": train["loss"],
            "gradient norm": train["grad_norm"],
            "learning rate": train["learning_rate"],
        }
        told = (f"{name} {_number(value)}" for name, value in numbers.items())
        return f"{which}: {', '.join(told)}"
    if batch.is_exact:
        return f"{which}: not trained yet; exact, unless weights are set by hand before"
    return (
        f"{which}: not trained yet; a prediction at the present weights, which may be updated "
        f"after step {batch.exact_until:,}"
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _table(sequences: Sequence[_Sequence]) -> str:
    columns = ("row", "rank", "micro", "domain", "window", "epoch", "loss", "documents", "text")
    rows = [
        (
            each.row,
            each.rank,
            each.micro_batch,
            each.domain,
            each.window,
            each.epoch,
            "" if each.loss_of_domain is None else f"{each.loss_of_domain:.3f}",
            _documents(each.documents, _DOCUMENTS),
            _cut(each),
        )
        for each in sequences
    ]
    align = ("right", "right", "right", "left", "right", "right", "right", "left", "left")
    return tabulate([columns, *rows], tablefmt="plain", disable_numparse=True, colalign=align)


def _in_full(sequences: Sequence[_Sequence]) -> str:
    every = {each.row: _documents(each.documents, len(each.documents)) for each in sequences}
    return "\n".join(
        f"--- row {each.row}, rank {each.rank}, micro-batch {each.micro_batch}, {each.domain} "
        f"window {each.window}, epoch {each.epoch}: {every[each.row]}\n"
        f"{_whole(each)}"
        for each in sequences
    )


def _whole(sequence: _Sequence) -> str:
    if sequence.texts is None:
        return " ".join(map(str, sequence.tokens.tolist()))
    return f"\n{_END}\n".join(sequence.texts)


def _documents(parts: Sequence[DocumentPart], most: int) -> str:
    """Return documents by shard: ``train-00000 17[120:],18,19[:40]``."""
    words: list[str] = []
    shard: Path | None = None
    for part in parts[:most]:
        begin = str(part.begin) if part.begin else ""
        end = str(part.end) if part.end < part.length else ""
        piece = f"{part.document}[{begin}:{end}]" if begin or end else str(part.document)
        if part.shard == shard:
            words[-1] += f",{piece}"
        else:
            words.append(f"{part.shard.name} {piece}")
        shard = part.shard
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return f"{' '.join(words)}{more}"


def _cut(sequence: _Sequence) -> str:
    """Return both ends of a text in one line; of the token ids without one."""
    if sequence.texts is None:
        ids = sequence.tokens.tolist()
        return f"ids {' '.join(map(str, ids[:6]))} ... {' '.join(map(str, ids[-3:]))}"
    text = f" {_END} ".join(sequence.texts)
    if len(text) > 2 * _SHOWN:
        ends = (text[:_SHOWN], text[-_SHOWN:])
        return " ... ".join(json.dumps(end, ensure_ascii=False) for end in ends)
    return json.dumps(text, ensure_ascii=False)


BATCH = Command(
    "Print the sequences of a step of a run: what the model saw, or will see.",
    _add_options,
    _batch,
    epilog=_EPILOG,
)
