"""Time what a resume takes to carry hundreds of thousands of domains over to a revision.

Writes a grouped folder with a short document for each domain and the record of a checkpoint,
merges some domains of the folder into their neighbours, and times a resume up to its first planned
batch, without the model: in seconds, and in seconds of processor time, which other programs do not
change.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np

from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.console import run_program
from megadga.data.content import contents_of
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    TokenizerIdentity,
    read_grouping,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.data.order import WindowOrder
from megadga.data.sampler import MixtureSampler, SamplerState
from megadga.errors import MegadgaError
from megadga.mixers.base import MixtureState
from megadga.mixers.carrying import carried_state
from megadga.run_folder.domains import DomainRecord, domain_files, read_domains
from megadga.train.data import RunData, open_data
from megadga.train.mixture import Mixture, make_mixture
from megadga.train.revisions import plan_revision, rule_name

LENGTH = 8
TOKENS = 4 * LENGTH + 1
TOKENIZER = TokenizerIdentity("sentencepiece", "0" * 64, vocab_size=64, eod=2)
RUN = {
    "output": "out",
    "model": {"type": "llama", "preset": "nano", "sequence_length": LENGTH},
    "data": {"domains": "grouped", "specific": {"target": {"path": "specific"}}},
    "mixing": {"type": "dga"},
    "training": {"steps": 1000, "global_batch_size": 1024, "micro_batch_size": 8},
    "deepspeed": {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}},
    "evaluation": None,
}


def write_folder(folder: Path, names: list[str]) -> None:
    """Write a grouped folder with one document of `TOKENS` tokens for each domain."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "train-00000", best_dtype(TOKENIZER.vocab_size)) as writer:
        tokens = rng.integers(3, TOKENIZER.vocab_size, len(names) * TOKENS)
        writer.add_documents(tokens, np.full(len(names), TOKENS))
    manifest = Manifest(folder.name, TOKENIZER, {"train": (writer.entry,)})
    if len(names) > 1:
        places = np.arange(len(names) + 1)
        grouping = Grouping(tuple(names), {"train": Bounds(places * TOKENS, places)})
        manifest = replace(manifest, grouping=write_grouping(folder, grouping))
    write_manifest(folder, manifest)


def merge_some(folder: Path, number: int) -> None:
    """Make domains out of pairs of neighbours, under the name of the first."""
    manifest = read_manifest(folder)
    grouping = read_grouping(folder, manifest)
    bounds = grouping.bounds["train"]
    kept = np.ones(len(grouping.names) + 1, dtype=np.bool_)
    kept[np.linspace(1, len(grouping.names) - 1, number).astype(np.int64)] = False
    names = tuple(name for name, each in zip(grouping.names, kept[:-1], strict=True) if each)
    merged = {"train": Bounds(bounds.tokens[kept], bounds.documents[kept])}
    entry = write_grouping(folder, Grouping(names, merged))
    write_manifest(folder, replace(manifest, grouping=entry))


def record_of(data: RunData, mixture: Mixture) -> tuple[DomainRecord, MixtureState]:
    """Return what a checkpoint in the middle of an epoch says of the domains, and its mixture."""
    state = mixture.scheduler.init()
    sizes = np.array([domain.num_sequences for domain in data.domains])
    record = DomainRecord(
        contents=contents_of(data.prefixes),
        order=WindowOrder.of(sizes),
        cursors=sizes // 2,
        weights=state.weights,
        averaged_weights=state.averaged_weights,
        rule=rule_name(mixture.scheduler),
        step=500,
        num_updates=0,
        num_skipped=0,
        revision=0,
        basis={},
    )
    return record, state


@dataclass(frozen=True)
class Clock:
    """A time, or the difference of two.

    Attributes:
        seconds: Of the clock on the wall.
        processor_s: Of this process.
    """

    seconds: float
    processor_s: float

    @classmethod
    def now(cls) -> "Clock":
        """Return the present time."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Clock") -> "Clock":
        return Clock(self.seconds - other.seconds, self.processor_s - other.processor_s)


def resume(config: RunConfig, checkpoint: Path, state: MixtureState) -> dict[str, Clock]:
    """Return the time of each part of a resume with a revision."""
    times: dict[str, Clock] = {}

    @contextmanager
    def timed(part: str) -> Generator[None]:
        began = Clock.now()
        yield
        times[part] = Clock.now() - began

    identity = json.loads((checkpoint / "identity.json").read_text())
    with timed("open data"):
        data = open_data(config)
    with timed("make mixture"):
        mixture = make_mixture(config, data.domains)
    with timed("read record"):
        record = read_domains(checkpoint)
    if record is None:
        raise MegadgaError(f"{checkpoint}: expected a record, found none")
    with timed("plan revision"):
        revision = plan_revision(config, data, mixture.scheduler, record, identity)
    with timed("carry mixture"):
        carried = carried_state(mixture.scheduler, state, revision.change)
    with timed("first batch"):
        sampler = MixtureSampler(revision.order, global_batch_size=1024, seed=0)
        sampler.plan(SamplerState(500, revision.cursors), carried.averaged_weights)
    return times


def main() -> None:
    """Parse the command line, measure, print a line per part and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, default=262_144, help="domains before the revision")
    parser.add_argument("--merged", type=int, default=1000, help="domains that leave")
    parser.add_argument("--output", type=Path, default=Path("build/bench/revisions.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder / "grouped", [f"c{index:06d}" for index in range(args.domains)])
        write_folder(folder / "specific", ["specific"])
        (folder / "run.yaml").write_text(json.dumps(RUN))
        config = load_config(folder / "run.yaml")
        data = open_data(config)
        mixture = make_mixture(config, data.domains)
        record, state = record_of(data, mixture)
        identity = {**config.identity(), "shards": data.identity}
        (folder / "identity.json").write_text(json.dumps(identity))
        began = Clock.now()
        for name, content in domain_files(record).items():
            (folder / name).write_bytes(content)
        written = Clock.now() - began
        merge_some(folder / "grouped", args.merged)
        times = {"write record": written, **resume(config, folder, state)}
    total = [sum(each) for each in zip(*map(astuple, times.values()), strict=True)]
    times["total"] = Clock(*total)
    print(f"{'':<16}{'seconds':>10}{'processor':>10}")
    for part, spent in times.items():
        print(f"{part:<16}{spent.seconds:>10.3f}{spent.processor_s:>10.3f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: asdict(spent) for part, spent in times.items()}
    content = {"domains": args.domains, "merged": args.merged, "times": parts}
    args.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
