"""The example of somebody else's loop: it runs as it stands, and does what our own loop does."""

import json
from pathlib import Path

import pytest

from tests.support.jobs import by_deepspeed, run_job
from tests.support.ranks import REPOSITORY, free_port, remove_shared_buffers, run_ranks
from tests.support.runs import write_run
from tests.support.shards import write_sets

EXAMPLE = REPOSITORY / "docs/examples/plain_deepspeed.py"

# What the example has in its code.
SAME_RUN = """\
seed: 17
output: {output}
model: {{type: llama, preset: tiny, sequence_length: 8}}
data:
  domains: {shards}/domains
  specific: {{target: {{path: {shards}/specific}}}}
mixing:
  type: dga
  preset: paper
  interval: 5
  step_size: 1.0
  ema: 0.1
  probe: {{type: sharded, sequences_per_domain: 8, specific_sequences: 32}}
training: {{steps: 11, global_batch_size: 8, micro_batch_size: 2}}
deepspeed: zero.json
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


@pytest.mark.parametrize("stage", [2, 3])
def test_example_trains_the_same_bits_as_megadgas_loop(
    shards: Path, tmp_path: Path, stage: int
) -> None:
    text = SAME_RUN.format(output=tmp_path / "run", shards=shards)
    config = write_run(tmp_path, text, zero_optimization={"stage": stage})
    worker = "tests.integration.workers.plain_loop"

    ours = run_ranks(worker, 2, tmp_path, str(config), "megadga")
    theirs = run_ranks(worker, 2, tmp_path, str(config), "example")

    assert ours["step"] == 11
    assert ours["weights"] != [1 / 3] * 3  # the mixture did move
    assert theirs == ours


def test_example_runs_under_the_deepspeed_launcher(shards: Path, tmp_path: Path) -> None:
    settings = json.loads(EXAMPLE.with_suffix(".json").read_text())
    settings["zero_optimization"]["stage"] = 3
    (tmp_path / "settings.json").write_text(json.dumps(settings))

    port = free_port()

    job = run_job(
        by_deepspeed(
            str(EXAMPLE),
            *("--domains", str(shards / "domains"), "--specific", str(shards / "specific")),
            *("--deepspeed-config", "settings.json", "--sequence-length", "8", "--steps", "6"),
            *("--checkpoints", "checkpoints"),
            module=False,
            port=port,
        ),
        tmp_path,
    )
    remove_shared_buffers(port)

    assert job.code == 0, job.text
    for name in ("d0: 0.", "d1: 0.", "d2: 0."):
        assert name in job.text
    assert (tmp_path / "checkpoints" / "latest").exists()
