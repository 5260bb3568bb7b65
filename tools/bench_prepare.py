"""Time building shards against encoding alone, and measure its memory as the corpus grows.

Rounds are interleaved: encoding the corpus, which lies in memory, by sentencepiece with so many
threads, then all of build_shards.py, from its start to its end, with as many workers; and a build
of a single document, which is what starting and ending takes, whatever the corpus. Memory is
the most that one of its processes held, while workers may hold 2 MB of tokens, for the corpus as
it is and for domains ten times as large.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from sentencepiece import SentencePieceProcessor

from megadga.console import run_program
from megadga.demo.benchmark import prepare_corpus
from megadga.prepare.reading.documents import iterate_documents

BATCH = 64
GROWTH = 10


def time_encoding(model: Path, texts: Sequence[str], threads: int) -> float:
    """Return the tokens per second that sentencepiece alone makes of texts."""
    processor = SentencePieceProcessor()
    processor.LoadFromFile(str(model))
    start, tokens = time.perf_counter(), 0
    for at in range(0, len(texts), BATCH * threads):
        batch = list(texts[at : at + BATCH * threads])
        tokens += sum(map(len, processor.encode(batch, num_threads=threads)))
    return tokens / (time.perf_counter() - start)


def run_build(
    inputs: Sequence[Path], model: Path, output: Path, *options: str, watched: bool = False
) -> dict[str, float]:
    """Run build_shards.py; return its tokens and seconds.

    Args:
        inputs: Files or folders, one per domain.
        model: The tokenizer.
        output: Removed at the end.
        options: More of the tool's.
        watched: Return the most memory that one process held as well, in MB; watching slows it.
    """
    tool = Path(__file__).with_name("build_shards.py")
    command = [sys.executable, str(tool), "--input", *map(str, inputs), "--tokenizer", str(model)]
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(
        [*command, "--output", str(output), *options], stdout=subprocess.DEVNULL
    )
    while watched and process.poll() is None:
        peak = max(peak, _most_resident(process))
        time.sleep(0.05)
    if process.wait():
        raise SystemExit(process.returncode)
    elapsed = time.perf_counter() - start
    manifests = [json.loads(path.read_bytes()) for path in output.glob("*/manifest.json")]
    splits = [split for manifest in manifests for split in manifest["splits"].values()]
    shutil.rmtree(output)
    tokens = sum(shard["tokens"] for split in splits for shard in split)
    return {"tokens": tokens, "seconds": elapsed, "peak_mb": peak / 1e6}


def time_rounds(
    files: Sequence[Path], model: Path, folder: Path, *, threads: int, rounds: int
) -> dict[str, object]:
    """Time both in turns; return their tokens per second and the ratios of each round."""
    texts = [document.text for file in files for document in iterate_documents(file)]
    single = folder / "single.jsonl"
    single.write_text('{"text": "Nearly nothing to do."}\n')
    workers = ("--workers", str(threads))
    rows: list[dict[str, float]] = []
    for _ in range(rounds):
        alone = time_encoding(model, texts, threads)
        built = run_build(files, model, folder / "out", *workers)
        alone_in_it = ("--valid-fraction", "0")
        fixed = run_build([single], model, folder / "out", *workers, *alone_in_it)["seconds"]
        speed = built["tokens"] / built["seconds"]
        steady = built["tokens"] / (built["seconds"] - fixed)
        rows.append(
            {
                "encoding_tokens_per_s": alone,
                "building_tokens_per_s": speed,
                "fixed_s": fixed,
                "ratio": speed / alone,
                "ratio_without_fixed": steady / alone,
            }
        )
        print("  " + ", ".join(f"{key} {value:,.3f}" for key, value in rows[-1].items()))
    medians = {
        f"median_{key}": statistics.median(row[key] for row in rows)
        for key in ("ratio", "ratio_without_fixed")
    }
    return {"threads": threads, "rounds": rows, **medians}


def measure_memory(files: Sequence[Path], model: Path, folder: Path) -> list[dict[str, float]]:
    """Build the corpus as it is and with every domain larger; return memory and tokens of each."""
    rows: list[dict[str, float]] = []
    for times in (1, GROWTH):
        domains = [folder / f"x{times}" / file.name.split(".")[0] for file in files]
        for domain, file in zip(domains, files, strict=True):
            domain.mkdir(parents=True)
            for copy in range(times):
                (domain / f"{copy}-{file.name}").symlink_to(file.absolute())
        found = run_build(
            domains, model, folder / f"out{times}", "--workers", "2", "--memory", "2", watched=True
        )
        rows.append({"times": times, **found})
        print(f"  {times:>2} x: {found['tokens']:,.0f} tokens, {found['peak_mb']:.0f} MB")
    return rows


def main() -> None:
    """Parse the command line, measure, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", nargs="+", metavar="GLOB", help="files, one per domain (text of this machine)")
    add("--vocab-size", type=int, default=16_000, metavar="N", help="(%(default)s)")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(1 2)")
    add("--rounds", type=int, default=5, metavar="N", help="(%(default)s)")
    add("--output", type=Path, default=Path("build/bench/prepare.json"), help="(%(default)s)")
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        files, model = prepare_corpus(args.input, folder, vocab_size=args.vocab_size)
        speed: list[dict[str, object]] = []
        for threads in args.threads:
            print(f"{threads} threads, {len(files)} domains")
            speed.append(time_rounds(files, model, folder, threads=threads, rounds=args.rounds))
        print("memory")
        memory = measure_memory(files, model, folder)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"speed": speed, "memory": memory}, indent=2) + "\n")
    for row in speed:
        print(
            f"{row['threads']} threads: building at {row['median_ratio']:.3f} of encoding alone, "
            f"{row['median_ratio_without_fixed']:.3f} without what starting and ending takes"
        )


def _most_resident(process: psutil.Process) -> int:
    try:
        processes = (process, *process.children(recursive=True))
        return max(one.memory_info().rss for one in processes)
    except psutil.NoSuchProcess:  # one has just ended
        return 0


if __name__ == "__main__":
    run_program(main)
