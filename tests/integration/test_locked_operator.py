"""A rank whose operator a killed process has left locked says so, and does not wait for ever."""

from pathlib import Path

from tests.support.jobs import alone, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data: {domains: shards/domains}
mixing: {type: uniform}
training: {steps: 1, global_batch_size: 2, micro_batch_size: 2}
deepspeed: zero.json
"""


def test_a_lock_that_nobody_releases_is_named_at_the_deadline(tmp_path: Path) -> None:
    write_sets(tmp_path / "shards", num_domains=2)
    write_run(tmp_path, RUN)
    lock = tmp_path / "operators" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    done = run_job(
        alone("megadga.cli", "train", "run.yaml"),
        tmp_path,
        TORCH_EXTENSIONS_DIR=str(tmp_path / "operators"),
        MEGADGA_DEADLINE_S="0.5",
    )
    assert done.code == 2
    assert f"waiting for {lock}, at most 0.5 s, while an operator is compiled; no" in done.text
    assert f"unless something is being compiled now: rm {lock}" in done.text
    assert f"{lock}: expected no lock on a compiled operator, found one after 0.5 s" in done.text
    assert not (tmp_path / "out").exists()
