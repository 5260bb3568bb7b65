"""A long run on many domains holds in the end what it held in the beginning."""

import json
from pathlib import Path

import numpy as np
import pytest

from megadga.arrays import FloatArray
from tests.faults.workers.observed_run import Observation
from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_domain

NUM_DOMAINS = 1000
OBSERVED_EVERY = 250
RUN = """\
seed: 17
output: out
model:
  type: llama
  preset: nano
  sequence_length: 8
  num_layers: 1
  hidden_size: 8
  num_heads: 1
  num_kv_heads: 1
  intermediate_size: 8
data:
  domains: shards/domains
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 50
  step_size: 0.02
  ema: 0.5
  probe: {type: directional, sequences_per_domain: 1, specific_sequences: 64}
training: {steps: STEPS, global_batch_size: 32, micro_batch_size: MICRO}
deepspeed: zero.json
evaluation: {interval: 500, sequences: 1}
checkpoint: {interval: 500, keep_last: 2}
"""
"""As little computation as there can be: what is looked at is everything around it."""
BLOCKS_PER_STEP = 0.5
"""Of Python's memory: an object that stays behind in every second step is too much."""
RESIDENT_BYTES = 1.5e6
"""Of resident memory, from early to late steps: the C library's comes in pieces. Of 10,000 steps
that is 250 bytes a step, less than a tensor takes with what torch notes of it."""
SLOWER = 1.3
"""Processor time of late steps by that of early ones, on a machine that others use, too."""
METRICS_BYTES_PER_STEP = 8192

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shards"
    for index in range(NUM_DOMAINS):
        write_domain(root / "domains" / f"d{index:04d}", seed=index, num_documents=4)
    write_domain(root / "specific", seed=1)
    return root


@pytest.mark.parametrize(("ranks", "steps"), [(1, 10_000), (2, 3_000)])
def test_memory_files_and_time_stay_flat(
    shards: Path, tmp_path: Path, ranks: int, steps: int
) -> None:
    (tmp_path / "shards").symlink_to(shards)
    micro = 32 // ranks
    text = RUN.replace("STEPS", str(steps)).replace("MICRO", str(micro))
    write_run(tmp_path, text, zero_optimization={"stage": 2}, gradient_clipping=1.0)

    done = run_job(
        on_ranks(
            "tests.faults.workers.observed_run",
            "run.yaml",
            "observed",
            str(OBSERVED_EVERY),
            ranks=ranks,
        ),
        tmp_path,
        timeout_s=7000,
    )

    assert done.code == 0, done.text[-4000:]
    lines = (tmp_path / "observed").read_text().splitlines()
    observed = [Observation(**json.loads(line)) for line in lines]
    assert len(observed) == steps // OBSERVED_EVERY
    # All that is made once has been made by then: updates, evaluations, checkpoints.
    settled = [each for each in observed if each.step >= max(1500, steps // 5)]
    assert slope(settled, "blocks") < BLOCKS_PER_STEP
    quarter = len(settled) // 4
    resident = values(settled, "resident_bytes")
    assert np.median(resident[-quarter:]) - np.median(resident[:quarter]) < RESIDENT_BYTES
    for held in ("open_files", "threads"):
        assert len({getattr(each, held) for each in settled}) == 1, held
    cpu_s = np.diff(values(settled, "cpu_s"))
    third = len(cpu_s) // 3
    assert np.median(cpu_s[-third:]) < SLOWER * np.median(cpu_s[:third])
    assert slope(settled, "metrics_bytes") < METRICS_BYTES_PER_STEP
    assert observed[-1].metrics_bytes < METRICS_BYTES_PER_STEP * steps


def values(observed: list[Observation], name: str) -> FloatArray:
    """Return one of the things that were observed, at each time."""
    return np.array([getattr(each, name) for each in observed], dtype=np.float64)


def slope(observed: list[Observation], name: str) -> float:
    """Return by how much it grows a step: the line of least squares."""
    return float(np.polyfit(values(observed, "step"), values(observed, name), 1)[0])
