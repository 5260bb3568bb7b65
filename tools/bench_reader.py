"""Time reading against Megatron's datasets, and opening many shards and many domains.

Both sides read the same synthetic shards, one per domain, in one thread of one process, from the
page cache. Ours plans global batches with the real sampler, for weights that stay as they are, and
reads them: int64 ids (B, S + 1), inputs and labels overlapping. Theirs is the blended GPT dataset
that Megatron-LM's own builder makes, with mapped files, no attention masks, and everything that
can be cached cached: sample after sample, int64 tokens (S,), labels (S,) and a loss mask, which
nobody collates. Order and mixture are computed by ours while it reads, and by theirs before.
"""

import json
import logging
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from megadga.arrays import FloatArray, TokenArray
from megadga.console import run_program, tool_parser
from megadga.data.create import create_domain
from megadga.data.domain import Domain
from megadga.data.folder import open_domains
from megadga.data.manifest import (
    Bounds,
    Grouping,
    TokenizerIdentity,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.data.reader import read_windows
from megadga.data.sampler import BatchPlan, MixtureSampler

with warnings.catch_warnings(action="ignore"):  # importing it makes torch warn of its own code
    from megatron.core.datasets.blended_dataset import BlendedDataset
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

TOKENIZER = TokenizerIdentity("sentencepiece", "0" * 64, vocab_size=32_000, eod=2)
S = 256
EPILOG = """\
example:
  python tools/bench_reader.py --output build/bench/reader.json

Takes about three minutes and 400 MB in the temporary folder, of which nothing is left.
"""


@dataclass(frozen=True)
class TheirTokenizer:
    """As much of a tokenizer as theirs asks for."""

    vocab_size: int = TOKENIZER.vocab_size
    eod: int = TOKENIZER.eod
    pad: int = -1

    @property
    def unique_identifiers(self) -> dict[str, str]:
        """What tells it apart in the names of cached files."""
        return {"class": "TheirTokenizer"}


def documents(num_tokens: int, *, seed: int) -> Iterator[TokenArray]:
    """Yield documents of 100 to 1,500 random ids until they hold ``num_tokens``."""
    rng = np.random.default_rng(seed)
    while num_tokens > 0:
        ids = rng.integers(TOKENIZER.vocab_size, size=rng.integers(100, 1500), dtype=np.uint16)
        yield ids
        num_tokens -= ids.size


def uneven_weights(num_domains: int) -> FloatArray:
    """Return a mixture of which no two weights are equal, shape ``(num_domains,)``."""
    return np.random.default_rng(0).dirichlet(np.full(num_domains, 2.0))


def plans(domains: Sequence[Domain], batch_size: int) -> Iterator[BatchPlan]:
    """Yield the batches of a run without end."""
    sizes = np.array([domain.num_sequences for domain in domains])
    sampler = MixtureSampler(sizes, global_batch_size=batch_size, seed=0)
    state, weights = sampler.init(), uneven_weights(len(domains))
    while True:
        yield (plan := sampler.plan(state, weights))
        state = plan.state_after


def blend(prefixes: Sequence[Path], num_samples: int, cache: Path) -> BlendedDataset:
    """Return theirs over the same shards, after it has written its indices to ``cache``."""
    config = GPTDatasetConfig(
        random_seed=0,
        sequence_length=S,
        blend=([str(prefix) for prefix in prefixes], uneven_weights(len(prefixes)).tolist()),
        split="1,0,0",
        path_to_cache=str(cache),
        tokenizer=cast("Any", TheirTokenizer()),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    sizes = [num_samples, 0, 0]
    builder = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config)
    return cast("list[BlendedDataset]", builder.build())[0]


def time_steady_state(folder: Path, num_sequences: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield sequences per second of both, for two sizes of batches; the repeats take turns."""
    prefixes = [path.with_suffix("") for path in sorted(folder.glob("*/*.bin"))]
    domains = open_domains(folder, split="train", sequence_length=S)
    for batch_size in (256, 1024):
        with tempfile.TemporaryDirectory() as cache:
            theirs = blend(prefixes, num_sequences * (repeats + 1), Path(cache))
            sample, batches = iter(range(len(theirs))), plans(domains, batch_size)
            seconds: list[tuple[float, float]] = []
            for _ in range(repeats + 1):  # the first warms both up
                start = time.perf_counter()
                for _ in range(num_sequences // batch_size):
                    read_windows(domains, next(batches).selection)
                middle = time.perf_counter()
                for _ in range(num_sequences // batch_size * batch_size):
                    theirs[next(sample)]
                seconds.append((middle - start, time.perf_counter() - middle))
        read = num_sequences // batch_size * batch_size
        ours_per_s, theirs_per_s = (read / median(side) for side in zip(*seconds[1:], strict=True))
        yield {
            "domains": len(domains),
            "batch_size": batch_size,
            "ours_per_s": round(ours_per_s),
            "theirs_per_s": round(theirs_per_s),
            "ratio": round(ours_per_s / theirs_per_s, 2),
        }


def time_start(folder: Path, num_samples: int) -> dict[str, Any]:
    """Return how long it takes until the first batch is read, and what is written for it."""
    prefixes = [path.with_suffix("") for path in sorted(folder.glob("*/*.bin"))]
    start = time.perf_counter()
    domains = open_domains(folder, split="train", sequence_length=S)
    read_windows(domains, next(plans(domains, 256)).selection)
    ours_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        theirs = blend(prefixes, num_samples, Path(cache))
        for index in range(256):
            theirs[index]
        theirs_s = time.perf_counter() - start
        written = [path.stat().st_size for path in Path(cache).rglob("*") if path.is_file()]
    return {
        "domains": len(domains),
        "samples": num_samples,
        "ours_s": round(ours_s, 3),
        "theirs_s": round(theirs_s, 3),
        "ours_files": 0,
        "theirs_files": len(written),
        "theirs_mb": round(sum(written) / 1e6, 1),
    }


def multiply_shards(folder: Path, num_shards: int) -> None:
    """Make a domain of one shard a domain of ``num_shards`` equal ones."""
    manifest = read_manifest(folder)
    (entry,) = manifest.splits["train"]
    entries = [replace(entry, file=f"train-{index:05d}") for index in range(num_shards)]
    for copy in entries[1:]:
        for suffix in (".bin", ".idx"):
            shutil.copyfile(folder / f"{entry.file}{suffix}", folder / f"{copy.file}{suffix}")
    write_manifest(folder, replace(manifest, splits={"train": tuple(entries)}))


def group(folder: Path, num_domains: int) -> None:
    """Divide the shard of ``folder`` evenly into ``num_domains`` domains."""
    manifest = read_manifest(folder)
    bounds = Bounds(
        np.linspace(0, manifest.num_tokens("train"), num_domains + 1).astype(np.int64),
        np.linspace(0, manifest.num_documents("train"), num_domains + 1).astype(np.int64),
    )
    names = tuple(f"c{index:06d}" for index in range(num_domains))
    entry = write_grouping(folder, Grouping(names, {"train": bounds}))
    write_manifest(folder, replace(manifest, grouping=entry))


def time_opening(folder: Path, label: str, sequence_length: int) -> dict[str, Any]:
    """Return how long it takes to open a folder's domains and to plan and read a batch."""
    start = time.perf_counter()
    domains = open_domains(folder, split="train", sequence_length=sequence_length)
    opened = time.perf_counter()
    plan = next(plans(domains, 1024))
    planned = time.perf_counter()
    read_windows(domains, plan.selection)
    return {
        "layout": label,
        "open_s": round(opened - start, 3),
        "plan_s": round(planned - opened, 3),
        "read_s": round(time.perf_counter() - planned, 3),
    }


def time_layouts(folder: Path, num_shards: int, num_domains: int) -> Iterator[dict[str, Any]]:
    """Yield how long many shards, of one domain and of ten, and many domains take to open."""
    for owners in (1, 10):
        root = folder / f"shards-of-{owners}"
        for index in range(owners):
            ids = documents(400, seed=index)
            create_domain(root / f"d{index}", TOKENIZER, {"train": ids})
            multiply_shards(root / f"d{index}", num_shards // owners)
        yield time_opening(root, f"{owners} x {num_shards // owners:,} shards", S)
    grouped = folder / "grouped"
    create_domain(grouped, TOKENIZER, {"train": documents(128 * num_domains, seed=0)})
    group(grouped, num_domains)
    yield time_opening(grouped, f"{num_domains:,} domains in one shard", 64)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of which the keys of the first row are the titles."""
    lines = [
        list(rows[0]),
        *(
            [f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print()


def main() -> None:
    """Parse the command line, measure, print tables and write the numbers as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--domains", type=int, nargs="+", default=[8, 64], metavar="K", help="(8 and 64)")
    add("--tokens", type=int, default=1_000_000, metavar="N", help="of a domain (%(default)s)")
    add("--sequences", type=int, default=16_384, metavar="N", help="of a repeat (%(default)s)")
    add("--repeats", type=int, default=7, metavar="N", help="timed in turns (%(default)s)")
    add("--samples", type=int, nargs="+", default=[100_000, 2_000_000, 20_000_000], metavar="N",
        help="of a run, for the time that starting it takes")  # fmt: skip
    add("--shards", type=int, default=10_000, metavar="N", help="to open (%(default)s)")
    add("--grouped", type=int, default=1 << 18, metavar="K", help="domains to open (%(default)s)")
    add("--output", type=Path, default=Path("build/bench/reader.json"), metavar="FILE")
    args = parser.parse_args()
    logging.disable()  # theirs logs at every build
    record: dict[str, Any] = {"sequence_length": S, "machine": platform.platform()}
    steady, starting = list[dict[str, Any]](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as name:
        dist.init_process_group("gloo", f"file://{name}/rendezvous", rank=0, world_size=1)
        for num_domains in tqdm(args.domains, desc="reading", disable=None):
            folder = Path(name) / str(num_domains)
            for index in range(num_domains):
                ids = documents(args.tokens, seed=index)
                create_domain(folder / f"d{index:03d}", TOKENIZER, {"train": ids})
            steady += time_steady_state(folder, args.sequences, args.repeats)
            starting += [time_start(folder, count) for count in args.samples]
        opening = time_layouts(Path(name), args.shards, args.grouped)
        layouts = list(tqdm(opening, desc="opening", disable=None))
    dist.destroy_process_group()
    for key, rows in (("steady_state", steady), ("start", starting), ("opening", layouts)):
        record[key] = rows
        show(rows)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
