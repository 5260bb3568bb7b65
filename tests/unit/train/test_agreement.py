import json
import shutil
from typing import Any

import pytest

from megadga.errors import ResumeError
from megadga.probes.saving import PendingFile
from megadga.run_folder.checkpoints import mark_latest
from megadga.run_folder.retention import Retention
from megadga.train.checkpoints import (
    CheckpointContent,
    CheckpointPlan,
    Checkpoints,
    check_intact,
    find_resume_point,
)
from megadga.train.metrics import MetricFanOut, MetricsFile
from megadga.train.ranks import OtherRankError, on_every_rank, on_first_rank
from tests.support.thread_ranks import on_ranks
from tests.unit.train.fakes import storage_of

IDENTITY = {"seed": 7}


class RankEngine:
    """Every rank writes a file of its own, named as DeepSpeed does, and the first one more."""

    def __init__(self, ranks):
        self.ranks = ranks

    def collect_checkpoint(self, tag, client_state, *, scratch, copies):
        del client_state, scratch, copies
        rank = self.ranks.rank
        names = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"]
        names += ["mp_rank_00_model_states.pt"] if rank == 0 else []
        return [self._file(f"{tag}/{name}") for name in names]

    def _file(self, name):
        return PendingFile(name, len(name), lambda file: file.write(name.encode()))

    def load_checkpoint(self, load_dir, tag, changes):
        raise NotImplementedError


def checkpoints_of(folder, ranks, *, watch: Any = dict):
    return Checkpoints(
        RankEngine(ranks),
        folder / "checkpoints",
        plan=CheckpointPlan(interval=2, last_step=8, retention=Retention(None)),
        content=CheckpointContent((), IDENTITY),
        metrics=MetricsFile(folder / "metrics.jsonl") if ranks.rank == 0 else None,
        storage=storage_of(folder, ranks),
        watch=watch,
    )


def resume_point(folder, ranks):
    point = find_resume_point(folder / "checkpoints", identity=IDENTITY, ranks=ranks)
    assert point is not None
    check_intact(point, ranks)
    return point


def fail():
    raise OSError(28, "No space left on device")


def test_work_on_rank_0_is_returned_on_all_ranks():
    assert on_ranks(lambda ranks: on_first_rank(ranks, lambda: ranks.rank)) == [0, 0]


def test_every_rank_gets_all_results():
    assert on_ranks(lambda ranks: on_every_rank(ranks, lambda: ranks.rank)) == [[0, 1], [0, 1]]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_rank_is_raised_on_all(failing):
    def work(ranks):
        on_every_rank(ranks, fail if ranks.rank == failing else lambda: None)

    errors = on_ranks(work)

    assert str(errors[failing]) == "[Errno 28] No space left on device"
    other = errors[1 - failing]
    assert isinstance(other, OtherRankError)
    assert str(other).startswith(f"rank {failing} failed: OSError: [Errno 28]")


def test_user_errors_are_raised_unchanged_on_every_rank():
    def refuse():
        raise ResumeError("latest: wrong")

    errors = on_ranks(lambda ranks: on_first_rank(ranks, refuse))

    assert [(type(error), str(error)) for error in errors] == [(ResumeError, "latest: wrong")] * 2


def test_the_header_has_the_files_of_every_rank(tmp_path):
    on_ranks(lambda ranks: checkpoints_of(tmp_path, ranks).save(2))

    header = json.loads((tmp_path / "checkpoints/step-00000002/megadga.json").read_text())
    assert sorted(header["files"]) == [
        "mp_rank_00_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ]


def test_ranks_that_see_different_folders_continue_from_the_first_ones_checkpoint(tmp_path):
    for step in (2, 4):
        on_ranks(lambda ranks, step=step: checkpoints_of(tmp_path / "0", ranks).save(step))
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    mark_latest(tmp_path / "1/checkpoints/step-00000002")  # what the second rank believes

    points = on_ranks(lambda ranks: resume_point(tmp_path / str(ranks.rank), ranks))

    assert [point.path.name for point in points] == ["step-00000004"] * 2
    assert points[0].header == points[1].header


def test_damage_found_by_one_rank_is_raised_on_all(tmp_path):
    on_ranks(lambda ranks: checkpoints_of(tmp_path, ranks).save(2))
    for part in (tmp_path / "checkpoints/step-00000002").glob("zero*"):
        content = part.read_text()
        part.write_text(content.replace("step", "stop"))

        errors = on_ranks(lambda ranks: resume_point(tmp_path, ranks))

        assert isinstance(errors[0], ResumeError)
        assert part.name in str(errors[0])
        assert str(errors[1]) == str(errors[0])
        part.write_text(content)


def test_a_folder_that_the_first_rank_cannot_make_fails_all_at_once(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")

    errors = on_ranks(lambda ranks: checkpoints_of(tmp_path, ranks).save(2))

    assert isinstance(errors[0], OSError)
    assert isinstance(errors[1], OtherRankError)


def test_metrics_that_cannot_be_written_end_the_run_on_all_ranks_together(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()

    def train(ranks):
        writes = ranks.rank == 0
        sinks = MetricFanOut([MetricsFile(tmp_path / "metrics.jsonl")] if writes else [])

        def watch():
            sinks.check()
            return {}

        sinks.log(1, {"train": {"loss": 1.0}})
        stopping = any(ranks.objects(sinks.failed))  # as ranks agree to stop after every step
        if stopping:
            checkpoints_of(tmp_path, ranks, watch=watch).save(1)

    errors = on_ranks(train)

    assert isinstance(errors[0], IsADirectoryError)
    assert isinstance(errors[1], OtherRankError)
    assert not (tmp_path / "checkpoints").exists()
