"""Time megadga's training against a plain DeepSpeed loop around Hugging Face's Llama.

Both train a model of the same shape, under the same settings of DeepSpeed, in processes of their
own, which take turns (ABBA...) so that a machine that gets slower favours neither.

megadga       What `megadga train` does with a static mixture of eight domains: batches planned and
              read from shards, losses by domain gathered over the ranks, metrics written.
transformers  LlamaForCausalLM with labels, which takes its loss by itself, on batches of random
              ids that are on the device before it starts. No data, no metrics.

speed         Tokens per second of megadga divided by those of transformers: the median over the
              rounds, and the quartiles. By CPU time: the same, of the time that the processes were
              busy, which other load on the machine disturbs less.
peak memory   Of megadga divided by that of transformers: the most that a rank was resident with,
              or that torch's allocator held on CUDA. Added memory: less what was resident before
              the engine was built, which is what Python and its libraries take.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tabulate import tabulate
from tqdm import tqdm

from megadga.console import run_program, tool_parser
from train_bench.case import SIDES, Case, Row, parse_workload
from train_bench.comparing import compare, make_context

BAR = 1.0
EPILOG = """\
example:
  python tools/bench_train.py --only 8m:256:fp32 --ranks 2 --stages 0 1 2 3 --seconds 30

Takes about six minutes on two quiet cores, and never more than about --minutes: cases that would
are left out, and named. Beside other load, OMP_NUM_THREADS=1 keeps threads from waiting for each
other. --gpu measures megadga's 125m and 350m presets with sequences of 1,024
tokens instead, a rank a CUDA device; without a device it does nothing.
"""
_ON_CPU = ("tiny:128:fp32", "tiny:256:fp32", "8m:256:fp32", "tiny:128:bf16")
_ON_GPU = ("125m:1024:bf16", "350m:1024:bf16", "125m:1024:fp32")
_QUICK = ("nano:16:fp32",)
_LONGER = 1.5
"""What a case may take of the longest one before it."""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--only", nargs="+", type=parse_workload, metavar="PRESET:LENGTH:PRECISION",
        default=[parse_workload(text) for text in _ON_CPU],
        help=f"models, sequence lengths, and fp32 or bf16 ({' '.join(_ON_CPU)})")  # fmt: skip
    add("--ranks", type=int, nargs="+", default=[1, 2], metavar="N", help="processes (1 2)")
    add("--stages", type=int, nargs="+", default=[1], choices=range(4), metavar="STAGE",
        help="of ZeRO (1)")  # fmt: skip
    add("--micro-batch", type=int, default=8, metavar="N",
        help="sequences of a step on a rank (%(default)s)")  # fmt: skip
    add("--vocab-size", type=int, default=8192, metavar="N", help="(%(default)s)")
    add("--seconds", type=float, default=20.0, metavar="N",
        help="that both train for in each case, beside the start (%(default)s)")  # fmt: skip
    add("--minutes", type=float, default=15.0, metavar="N",
        help="of all cases together: none begins that may take longer (%(default)s)")  # fmt: skip
    add("--rounds", type=int, default=3, metavar="N",
        help="how often each takes a turn, at least (%(default)s)")  # fmt: skip
    add("--quick", action="store_true", help="a few steps of a very small model on one rank")
    add("--gpu", action="store_true", help="needs a CUDA device; see below")
    add("--output", type=Path, default=Path("build/bench/train.json"), metavar="FILE",
        help="(%(default)s)")  # fmt: skip
    args = parser.parse_args()
    if args.quick:
        quick = [parse_workload(text) for text in _QUICK]
        parser.set_defaults(only=quick, ranks=[1], vocab_size=64, seconds=0.0, rounds=2)
        args = parser.parse_args()
    if args.gpu:
        ranks = sorted({1, max(1, torch.cuda.device_count())})
        parser.set_defaults(
            only=[parse_workload(text) for text in _ON_GPU], ranks=ranks, vocab_size=32_000,
            output=Path("build/bench/train-gpu.json"),
        )  # fmt: skip
        args = parser.parse_args()
    for name, least in (("rounds", 2), ("micro_batch", 1), ("vocab_size", 3)):
        if (found := getattr(args, name)) < least:
            parser.error(f"--{name.replace('_', '-')}: expected at least {least}, found {found}")
    if min(args.ranks) < 1:
        parser.error(f"--ranks: expected at least 1, found {min(args.ranks)}")
    return args


def measure(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Compare both sides in each case, one after another; return rows, and cases left out."""
    context = make_context(accelerator=torch.accelerator.is_available())
    planned = [(w, r, s) for w in args.only for s in args.stages for r in args.ranks]
    rows: list[Row] = []
    left_out: list[str] = []
    until, longest_s = time.monotonic() + 60.0 * args.minutes, 0.0
    with TemporaryDirectory() as name, tqdm(planned, disable=None) as progress:
        for number, (workload, ranks, stage) in enumerate(progress):
            title = f"{workload}, ranks {ranks}, ZeRO-{stage}"
            progress.set_description(title)
            began = time.monotonic()
            if rows and began + _LONGER * longest_s > until:
                left_out.append(title)
                continue
            case = Case(
                workload=workload,
                ranks=ranks,
                stage=stage,
                micro_batch=args.micro_batch,
                vocabulary_size=args.vocab_size,
                folder=Path(name) / str(number),
            )
            row = compare(
                case,
                context=context,
                seconds=args.seconds,
                min_rounds=args.rounds,
                tell=lambda done, title=title: progress.set_description(f"{title}, round {done}"),
            )
            rows.append(row)
            longest_s = max(longest_s, time.monotonic() - began)
    return rows, left_out


def show(rows: Sequence[Row], left_out: Sequence[str]) -> str:
    """Return a table of what was found, and how the bar was met."""
    titles = (
        *("model", "length", "precision", "ranks", "stage"),
        *(f"{side} tokens/s" for side in SIDES),
        *("speed", "quartiles", "by CPU time", "rounds", "peak memory", "added memory"),
    )
    cells = [
        [
            *(row["model"], row["sequence_length"], row["precision"], row["ranks"], row["stage"]),
            *(f"{row[side]['tokens_per_s']:,.0f}" for side in SIDES),
            f"{row['speed'].median:.3f}",
            f"{row['speed'].lower:.3f}-{row['speed'].upper:.3f}",
            f"{row['speed_by_cpu_time'].median:.3f}",
            len(row["speed"].rounds),
            *(f"{row[name]:.3f}" for name in ("peak_memory", "added_memory")),
        ]
        for row in rows
    ]
    lowest = min(row["speed"].median for row in rows)
    verdict = "met" if lowest >= BAR else "MISSED"
    table = tabulate(cells, titles, tablefmt="plain", disable_numparse=True, stralign="right")
    missing = "".join(f"\nleft out, as --minutes are over: {title}" for title in left_out)
    bar = f"speed of at least {BAR:g} in every case, found {lowest:.3f}"
    return f"{table}\n\n{verdict}: {bar}{missing}"


def main() -> None:
    """Parse the command line, compare, print a table and write the numbers as JSON."""
    args = parse()
    if args.gpu and not torch.cuda.is_available():
        print(f"skipped: needs a CUDA device, torch {torch.__version__} found none")
        return
    rows, left_out = measure(args)
    print(show(rows, left_out))
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    record = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "settings": settings | {"only": [str(workload) for workload in args.only]},
        "rows": [
            row | {name: asdict(row[name]) for name in ("speed", "speed_by_cpu_time")}
            for row in rows
        ],
        "left_out": left_out,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
