"""Time training with DGA against training with weights that stay, whole intervals at a time.

Runs of the same model, data and batches, as `megadga train` makes them of a configuration, live
side by side in the same two processes and take turns: an interval of a run without measurements
before and after an interval of each run with them, which ends in one update, or of which every
step has one. What is read to measure is at most a given share of what is trained. The overhead is
the time with, divided by the mean time without on both sides of it, less 1; by the wall clock, and
in processor time, which other work on the machine changes less. The collectives that a step asks
for, beside those of DeepSpeed, are counted as well. Synthetic shards: the text does not matter
here.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import TokenArray
from megadga.config.llama_shapes import PRESETS
from megadga.console import run_program, tool_parser
from megadga.data.create import create_domain
from megadga.data.manifest import TokenizerIdentity
from megadga.report.records import read_metrics
from trials.interleaving import PLAIN, Overhead, Segment, overheads, specific_sequences

TOKENIZER = TokenizerIdentity("sentencepiece", "0" * 64, vocab_size=1024, eod=2)
EPILOG = """\
example:
  python tools/bench_overhead.py --rounds 5
  python tools/bench_overhead.py --preset 8m --probes every_step

Takes about ten minutes on two cores that have nothing else to do. Where they have, compare
processor times.
"""


@dataclass(frozen=True)
class Way:
    """One way to measure.

    Attributes:
        probe: Its section, with room for how many sequences.
        passes: How often an update reads each specific sequence.
        bar: What it may add to training's time.
        every_step: Whether there is an update in every step, along a direction of ``T`` steps.
    """

    probe: str
    passes: int
    bar: float = 0.01
    every_step: bool = False


_WAYS = {
    "directional": Way("{type: directional, %s}", 1),
    "directional_low_rank": Way("{type: directional, direction: {rank: 16}, %s}", 2),
    # Domains that a batch lacks are measured in every update, which costs at least as much as
    # in every tenth.
    "in_flight_low_rank": Way("{type: in_flight, direction: {rank: 16}, refresh_every: 1, %s}", 2),
    "every_step": Way(
        "{type: in_flight, direction: {rank: 16}, direction_interval: %d, refresh_every: %d, %s}",
        2,
        bar=0.05,
        every_step=True,
    ),
}
_RUN = """\
seed: 0
output: {output}
model: {{type: llama, preset: {preset}, sequence_length: {sequence_length}}}
data: {{domains: {folder}/domains, specific: {{target: {{path: {folder}/target}}}}}}
mixing: {mixing}
training: {{steps: 1000000, global_batch_size: {batch}, micro_batch_size: {micro_batch}}}
deepspeed:
  zero_optimization: {{stage: 2}}
  gradient_clipping: 1.0
  optimizer: {{type: AdamW, params: {{torch_adam: true, lr: 1.0e-3}}}}
evaluation: null
checkpoint: null
"""


@dataclass(frozen=True)
class Sizes:
    """What is trained and measured.

    Attributes:
        domains: K.
        interval: T_r, optimizer steps between updates.
        batch: Sequences of an optimizer step.
        sequence_length: Targets of a sequence.
        sequences_per_domain: b.
        share: Sequences that an update reads, at most, divided by those trained since the last.
        ranks: Processes.
        preset: The model.
    """

    domains: int
    interval: int
    batch: int
    sequence_length: int
    sequences_per_domain: int
    share: float
    ranks: int
    preset: str


def documents(seed: int) -> Iterator[TokenArray]:
    """Yield 100 documents of 500 random ids."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        yield rng.integers(TOKENIZER.vocab_size, size=500, dtype=np.uint16)


def write_inputs(folder: Path, sizes: Sizes, ways: Sequence[str]) -> list[Path]:
    """Write shards and the runs' configurations, the plain one first."""
    for index in range(sizes.domains):
        create_domain(folder / "domains" / f"d{index:04d}", TOKENIZER, {"train": documents(index)})
    create_domain(folder / "target", TOKENIZER, {"train": documents(sizes.domains)})
    paths: list[Path] = []
    for name, mixing in mixings(sizes, ways).items():
        text = _RUN.format(
            output=json.dumps(str(folder / name)),
            folder=folder,
            mixing=mixing,
            preset=sizes.preset,
            sequence_length=sizes.sequence_length,
            batch=sizes.batch,
            micro_batch=min(32, sizes.batch // sizes.ranks),
        )
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(text)
    return paths


def mixings(sizes: Sizes, ways: Sequence[str]) -> Mapping[str, str]:
    """Return the section `mixing` of each run, the plain one first."""
    found = {PLAIN: "{type: static, weights: uniform}"}
    for name in ways:
        way = _WAYS[name]
        specific = specific_sequences(
            sizes.share * sizes.interval * sizes.batch,
            of_domains=sizes.domains * sizes.sequences_per_domain,
            passes=way.passes,
        )
        counts = (
            f"sequences_per_domain: {sizes.sequences_per_domain}, specific_sequences: {specific}"
        )
        again = (sizes.interval, sizes.interval) if way.every_step else ()
        found[name] = (
            f"{{type: dga, preset: paper, interval: {1 if way.every_step else sizes.interval}, "
            f"step_size: 0.1, ema: 0.1, probe: {way.probe % (*again, counts)}}}"
        )
    return found


def run_in_turns(
    configs: Sequence[Path], sizes: Sizes, folder: Path, rounds: int
) -> tuple[list[list[Segment]], dict[str, float]]:
    """Train in processes of their own; what they print goes to a file but for the rounds.

    Returns:
        The segments of each round, and how many collectives per step of each run asks for, beside
        DeepSpeed's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    output, log = folder / "seconds.json", folder / "log.txt"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(sizes.ranks)),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("-m", "trials.overhead_worker", str(output), str(sizes.interval), str(rounds)),
        *map(str, configs),
    ]
    tools = str(Path(__file__).parent.absolute())
    search = os.pathsep.join(filter(None, (tools, os.environ.get("PYTHONPATH"))))
    with log.open("w") as sink:
        status = subprocess.run(  # noqa: S603  (our own arguments, and no shell)
            command, stderr=sink, env={**os.environ, "PYTHONPATH": search}, check=False
        ).returncode
    if status:
        raise SystemExit(f"{log.read_text()[-4000:]}\ntraining ended with {status}")
    found = json.loads(output.read_text())
    rounds_of = [[Segment(**each) for each in round_] for round_ in found["segments"]]
    return rounds_of, found["collectives_per_step"]


def as_the_runs_saw_it(folder: Path, name: str) -> dict[str, float]:
    """Return what a run has logged of its own overhead, without the first update."""
    updates = read_metrics(folder / name / "metrics.jsonl").of("update")
    return {
        "predicted": updates[-1]["predicted_overhead"],
        "observed": statistics.median(update["observed_overhead"] for update in updates[1:]),
    }


def show(name: str, wall: Overhead, processor: Overhead, own: Mapping[str, float]) -> str:
    """Return a line about one way to measure."""
    bar = _WAYS[name].bar
    return (
        f"{name:>22}: {wall.median:+.2%} (from {wall.lowest:+.2%} to {wall.highest:+.2%}), "
        f"{'at most' if wall.median <= bar else 'more than'} {bar:.0%}; of processor time "
        f"{processor.median:+.2%} (from {processor.lowest:+.2%} to {processor.highest:+.2%}), "
        f"{'at most' if processor.median <= bar else 'more than'} {bar:.0%}; by its own clock "
        f"{own['observed']:.2%}, predicted {own['predicted']:.2%}"
    )


def main() -> None:
    """Parse the command line, train in turns, and write the overheads as JSON."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--domains", type=int, default=64, metavar="K", help="(%(default)s)")
    add("--interval", type=int, default=100, metavar="T", help="steps (%(default)s)")
    add("--batch", type=int, default=128, metavar="B", help="sequences of a step (%(default)s)")
    add("--sequence-length", type=int, default=16, metavar="S", help="(%(default)s)")
    add("--sequences-per-domain", type=int, default=1, metavar="N", help="(%(default)s)")
    add("--share", type=float, default=0.006, metavar="F", help="that is probed (%(default)s)")
    add("--ranks", type=int, default=2, metavar="N", help="processes (%(default)s)")
    add("--preset", choices=PRESETS, default="tiny", metavar="NAME", help="model (%(default)s)")
    add("--probes", nargs="+", choices=_WAYS, default=list(_WAYS), metavar="NAME",
        help=f"{', '.join(_WAYS)} (all)")  # fmt: skip
    add("--rounds", type=int, default=3, metavar="N", help="(%(default)s)")
    add("--output", type=Path, default=Path("build/bench/overhead.json"), help="(%(default)s)")
    args = parser.parse_args()
    sizes = Sizes(
        domains=args.domains,
        interval=args.interval,
        batch=args.batch,
        sequence_length=args.sequence_length,
        sequences_per_domain=args.sequences_per_domain,
        share=args.share,
        ranks=args.ranks,
        preset=args.preset,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = write_inputs(folder, sizes, args.probes)
        rounds, collectives = run_in_turns(configs, sizes, folder, args.rounds)
        own = {probe: as_the_runs_saw_it(folder, probe) for probe in args.probes}
    found = overheads(rounds, lambda segment: segment.seconds)
    processor = overheads(rounds, lambda segment: segment.processor_s)
    plain = statistics.median(s.seconds for r in rounds for s in r if s.name == PLAIN)
    tokens_per_s = sizes.interval * sizes.batch * sizes.sequence_length / plain
    print(f"{tokens_per_s:,.0f} tokens/s without measurements, the median")
    for name, number in collectives.items():
        print(f"{name:>22}: {number:.2f} collectives per step beside DeepSpeed's")
    for probe, overhead in found.items():
        print(show(probe, overhead, processor[probe], own[probe]))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "sizes": asdict(sizes),
        "tokens_per_s": tokens_per_s,
        "collectives_per_step": collectives,
        "overheads": {
            probe: {**asdict(found[probe]), "processor": asdict(processor[probe]), **own[probe]}
            for probe in found
        },
        "segments": [[asdict(segment) for segment in segments] for segments in rounds],
    }
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
