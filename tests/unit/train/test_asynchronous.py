"""Checkpoints that are written while training goes on, by two ranks that are threads."""

import json
import shutil
import threading

import pytest

from megadga.probes.saving import PendingFile
from megadga.run_folder.checkpoints import latest_checkpoint, load_header
from megadga.run_folder.retention import Retention
from megadga.train.checkpoints import (
    CheckpointContent,
    CheckpointPlan,
    Checkpoints,
    find_resume_point,
)
from megadga.train.metrics import MetricsFile
from megadga.train.storage import Storage
from megadga.train.waiting import Waiting
from tests.support.thread_ranks import on_ranks

LOSS = "specific/a"


class GatedEngine:
    """Every rank has a file, whose writing waits for the gate of its step."""

    def __init__(self, rank, gates):
        self.rank, self.gates = rank, gates

    def collect_checkpoint(self, tag, client_state, *, scratch, copies):
        assert copies
        gate = self.gates.setdefault(tag, threading.Event())

        def write(file):
            if self.rank == 1:
                assert gate.wait(10)
            file.write(tag.encode())

        return [PendingFile(f"{tag}/rank_{self.rank}.pt", len(tag), write)]

    def load_checkpoint(self, load_dir, tag, changes):
        return f"{load_dir}/{tag}", {"megadga": {}}


class World:
    """Two ranks with checkpoints, which are run by functions that both call."""

    def __init__(self, folder, *, stop=lambda: False, pauses=False):
        self.folder, self.stop = folder, stop
        self.waiting = Waiting(
            pauses=pauses, limit_s=10, limit_key="", first_delay_s=0.01, round_s=0.02
        )
        self.gates = {}

    def run(self, work):
        def on_rank(ranks):
            storage = Storage(
                self.folder,
                ranks=ranks,
                waiting=self.waiting,
                stop_requested=self.stop,
                report=lambda _: None,
            )
            retention = Retention(1, best_loss=LOSS)
            plan = CheckpointPlan(1, last_step=9, retention=retention, asynchronous=True)
            checkpoints = Checkpoints(
                GatedEngine(ranks.rank, self.gates),
                self.folder / "checkpoints",
                plan=plan,
                content=CheckpointContent((), {}),
                metrics=MetricsFile(self.folder / "metrics.jsonl") if ranks.rank == 0 else None,
                storage=storage,
            )
            return work(checkpoints, ranks)

        results = on_ranks(on_rank)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def open_gate(self, ranks, step):
        ranks.objects(None)
        self.gates[f"step-{step:08d}"].set()

    def latest(self):
        path = latest_checkpoint(self.folder / "checkpoints")
        return None if path is None else path.name


def all_reduce(checkpoints, ranks):
    """What a step does with the flag of the checkpoints."""
    flag = checkpoints.being_written
    flag.update_from_sum(sum(ranks.objects(flag.own())))


def end_of_step(checkpoints, ranks, *, until):
    """Steps without a checkpoint, until one is complete; return how many."""
    for steps in range(1000):
        all_reduce(checkpoints, ranks)
        checkpoints.poll()
        if checkpoints.newest is not None and checkpoints.newest.name == f"step-{until:08d}":
            return steps
        ranks.objects(None)
    raise AssertionError


def evaluation(loss):
    return {"specific": {"a": loss}, "domains": {"d": 9.0}, "general": 9.0}


def test_a_checkpoint_is_the_latest_when_all_ranks_have_written_and_not_before(tmp_path):
    world = World(tmp_path)
    seen = []

    def work(checkpoints, ranks):
        checkpoints.save(1)
        for _ in range(3):
            all_reduce(checkpoints, ranks)
            checkpoints.poll()
        seen.append((world.latest(), checkpoints.newest, checkpoints.take_written()))
        world.open_gate(ranks, 1)
        end_of_step(checkpoints, ranks, until=1)
        (written,) = checkpoints.take_written()
        return written.step, written.bytes, written.waited_s <= written.seconds

    assert world.run(work) == [(1, 2 * len("step-00000001"), True)] * 2
    assert seen == [(None, None, [])] * 2
    assert world.latest() == "step-00000001"
    header = load_header(tmp_path / "checkpoints/step-00000001")
    assert sorted(header.files) == ["rank_0.pt", "rank_1.pt"]


def test_the_next_checkpoint_and_the_end_wait_for_the_one_before(tmp_path):
    world = World(tmp_path)
    order = []

    def work(checkpoints, ranks):
        checkpoints.save(1, evaluation(1.0))
        world.open_gate(ranks, 1)
        checkpoints.save(2, evaluation(2.0))
        order.append((ranks.rank, checkpoints.newest.name))
        checkpoints.prune()  # the second has begun, and must not be taken for a leftover
        world.open_gate(ranks, 2)
        newest = checkpoints.finish()
        checkpoints.prune()
        return newest.name

    assert world.run(work) == ["step-00000002"] * 2
    assert sorted(order) == [(0, "step-00000001"), (1, "step-00000001")]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"latest", "best", "step-00000001", "step-00000002"}
    assert (tmp_path / "checkpoints/best").read_text() == "step-00000001"


def test_a_run_that_crashes_while_writing_resumes_from_the_one_before(tmp_path):
    world = World(tmp_path)

    def crash(checkpoints, ranks):
        checkpoints.save(1, evaluation(2.0))
        world.open_gate(ranks, 1)
        checkpoints.finish()
        checkpoints.save(2, evaluation(1.0))  # rank 1 has not written when both are gone

    world.run(crash)
    world.gates["step-00000002"].set()

    def resume(checkpoints, ranks):
        folder = tmp_path / "checkpoints"
        point = find_resume_point(folder, identity={}, ranks=ranks)
        assert point is not None
        checkpoints.resume(point)
        checkpoints.prune()
        return point.path.name

    assert World(tmp_path).run(resume) == ["step-00000001"] * 2
    assert (tmp_path / "checkpoints/best").read_text() == "step-00000001"


@pytest.mark.parametrize("stops", [False, True])
def test_a_failure_while_training_goes_on_pauses_it_until_it_works_or_is_to_stop(tmp_path, stops):
    """``latest`` is a folder: it cannot be replaced until somebody removes it."""
    blocked = tmp_path / "checkpoints/latest"
    world = World(tmp_path, pauses=True, stop=lambda: stops)

    def work(checkpoints, ranks):
        if ranks.rank == 0:
            (blocked / "inside").mkdir(parents=True)
            threading.Timer(0.3, lambda: shutil.rmtree(blocked)).start()
        checkpoints.save(1)
        world.open_gate(ranks, 1)
        newest = checkpoints.finish()
        return newest and newest.name

    assert world.run(work) == [None if stops else "step-00000001"] * 2
    assert (tmp_path / "checkpoints/step-00000001").exists() == (not stops)
    if not stops:
        assert world.latest() == "step-00000001"


def test_records_of_checkpoints_survive_the_truncation_of_the_metrics(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log(1, {"train": {}})
    length = metrics.sync()
    metrics.log(1, {"checkpoint": {"bytes": 5}})
    metrics.log(2, {"train": {}})
    metrics.log(2, {"checkpoint": {"bytes": 6}})

    metrics.cut(length, checkpoints_until=1)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"type": "train", "step": 1},
        {"type": "checkpoint", "step": 1, "bytes": 5},
    ]
    abandoned = (tmp_path / "metrics.abandoned.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in abandoned] == [2, 2]
