import json
import os
import shutil
from pathlib import Path

import pytest

from megadga.errors import ResumeError
from megadga.probes.saving import PendingFile
from megadga.run_folder.retention import Retention
from megadga.train.checkpoints import (
    CheckpointContent,
    CheckpointPlan,
    Checkpoints,
    check_intact,
    find_resume_point,
)
from megadga.train.metrics import MetricsFile
from tests.unit.train.fakes import LoneRank, storage_of

IDENTITY = {"seed": 7}


class FolderEngine:
    """Saves its weight as a file.

    ``dies_while_saving`` stops it half way; ``misses_files`` finds nothing, as DeepSpeed would.
    """

    def __init__(self, weight=0):
        self.weight = weight
        self.dies_while_saving = False
        self.misses_files = False

    def collect_checkpoint(self, tag, client_state, *, scratch, copies):
        assert list(scratch.iterdir()) == []
        content = json.dumps({"weight": self.weight, "client": client_state}).encode()

        def write(file):
            if self.dies_while_saving:
                raise KeyboardInterrupt
            file.write(content)

        return [PendingFile(f"{tag}/engine.json", len(content), write)]

    def load_checkpoint(self, load_dir, tag, changes):
        if self.misses_files:
            return None, {}
        with open(f"{load_dir}/{tag}/engine.json") as source:  # noqa: PTH123
            saved = json.load(source)
        self.weight = saved["weight"]
        return f"{load_dir}/{tag}", saved["client"]


class Counter:
    """A plugin that counts, and keeps its count in checkpoints or not."""

    def __init__(self, name="counter", *, keeps=True):
        self.name = name
        self.keeps = keeps
        self.count = 0

    def after_step(self, step):
        self.count += step
        return {}

    def state_dict(self):
        return {"count": self.count} if self.keeps else {}

    def load_state_dict(self, state):
        self.count = state["count"]


class World:
    """One rank's engine, plugin, metrics and checkpoints over a run's folder."""

    def __init__(
        self, folder, *, identity=IDENTITY, keep_last=None, writes=True, weight=0, more_plugins=()
    ):
        self.folder, self.identity = folder / "checkpoints", identity
        self.ranks = LoneRank(rank=0 if writes else 1)
        self.engine, self.plugin = FolderEngine(weight), Counter()
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.checkpoints = Checkpoints(
            self.engine,
            self.folder,
            plan=CheckpointPlan(interval=2, last_step=8, retention=Retention(keep_last)),
            content=CheckpointContent((self.plugin, *more_plugins), identity),
            metrics=self.metrics if writes else None,
            storage=storage_of(folder, self.ranks),
        )

    def resume(self, wanted=None):
        point = find_resume_point(
            self.folder, identity=self.identity, ranks=self.ranks, wanted=wanted
        )
        if point is not None:
            check_intact(point, self.ranks)
        self.checkpoints.resume(point)

    def train(self, steps, *, save_at=()):
        for step in steps:
            self.engine.weight += step
            self.plugin.after_step(step)
            self.metrics.log(step, {"train": {"weight": self.engine.weight}})
            self.checkpoints.prune()
            if self.checkpoints.due(step) or step in save_at:
                self.checkpoints.save(step)

    def die_while_saving(self, steps):
        self.engine.dies_while_saving = True
        with pytest.raises(KeyboardInterrupt):
            self.train(steps)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_plan_has_the_interval_and_the_last_step():
    plan = CheckpointPlan(interval=2, last_step=5, retention=Retention(None))
    never = CheckpointPlan(interval=None, last_step=5, retention=Retention(None))

    assert [step for step in range(1, 6) if plan.due(step)] == [2, 4, 5]
    assert not any(never.due(step) for step in range(1, 6))


def test_a_resumed_run_continues_like_the_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = World(tmp_path / "whole")
    whole.resume()
    whole.train(range(1, 6), save_at=[5])
    first = World(tmp_path / "parts")
    first.resume()
    first.train(range(1, 4))  # step 3 is lost: the last checkpoint is of step 2

    second = World(tmp_path / "parts")
    second.resume()
    second.train(range(3, 6), save_at=[5])

    assert second.engine.weight == whole.engine.weight
    assert second.plugin.count == whole.plugin.count
    resumed = records(tmp_path / "parts")
    event = {"type": "event", "step": 2, "event": "resume", "checkpoint": "step-00000002"}
    assert resumed[2] == event
    assert resumed[:2] + resumed[3:] == records(tmp_path / "whole")
    abandoned = (tmp_path / "parts" / "metrics.abandoned.jsonl").read_text()
    assert json.loads(abandoned)["step"] == 3


def test_a_run_that_dies_while_saving_continues_from_the_one_before(tmp_path):
    first = World(tmp_path)
    first.train(range(1, 4))
    first.die_while_saving([4])

    second = World(tmp_path)
    second.resume()

    assert second.engine.weight == 1 + 2
    second.train([3, 4])
    third = World(tmp_path)
    third.resume()
    assert third.engine.weight == 1 + 2 + 3 + 4


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    world = World(tmp_path, keep_last=2)
    world.train(range(1, 7))
    world.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000004", "step-00000006"]


def test_an_incomplete_checkpoint_never_replaces_a_complete_one(tmp_path):
    World(tmp_path, keep_last=1).train(range(1, 7))
    killed = World(tmp_path, keep_last=1)
    killed.resume()
    killed.die_while_saving([7, 8])  # half of step 8 lies there

    stopped = World(tmp_path, keep_last=1)
    stopped.resume()
    stopped.train([7], save_at=[7])  # a signal
    assert names(tmp_path) == ["latest", "step-00000006", "step-00000007"]
    stopped.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000007"]
    resumed = World(tmp_path)
    resumed.resume()
    assert resumed.engine.weight == sum(range(8))


@pytest.mark.parametrize("keep_last", [1, 2, 3])
def test_a_run_that_crashes_repeatedly_while_saving_can_always_resume(tmp_path, keep_last):
    World(tmp_path, keep_last=keep_last).train([1, 2])
    for step in (2, 3, 4, 5):  # saved by a signal one step further each time
        dying = World(tmp_path, keep_last=keep_last)
        dying.resume()
        dying.engine.dies_while_saving = True
        with pytest.raises(KeyboardInterrupt):
            dying.train(range(step + 1, 9))
        stopped = World(tmp_path, keep_last=keep_last)
        stopped.resume()
        assert stopped.engine.weight == sum(range(step + 1))
        stopped.train([step + 1], save_at=[step + 1])
        stopped.checkpoints.prune()

    assert names(tmp_path)[1:] == [f"step-{step:08d}" for step in range(7 - keep_last, 7)]


def test_a_run_whose_latest_is_lost_is_refused_and_names_what_there_is(tmp_path):
    world = World(tmp_path, keep_last=2)
    world.train(range(1, 7))
    world.checkpoints.prune()
    before = names(tmp_path)[1:]
    (tmp_path / "checkpoints" / "latest").unlink()

    with pytest.raises(ResumeError) as caught:
        World(tmp_path).resume()

    assert str(caught.value) == (
        f"{tmp_path}/checkpoints/latest: expected the name of the checkpoint to continue from, "
        "found no such file beside step-00000004, step-00000006; "
        "resume with --from step-00000006"
    )
    assert names(tmp_path) == before
    assert len(records(tmp_path)) == 6


def test_a_first_checkpoint_is_resumed_although_its_writer_was_killed_before_it_was_the_latest(
    tmp_path,
):
    World(tmp_path).train([1, 2], save_at=[2])
    (tmp_path / "checkpoints" / "latest").unlink()

    resumed = World(tmp_path)
    resumed.resume()
    resumed.train([3])

    assert resumed.engine.weight == 6
    assert names(tmp_path) == ["latest", "step-00000002"]


def test_an_incomplete_first_checkpoint_is_not_resumed(tmp_path):
    World(tmp_path).die_while_saving([1, 2])

    anew = World(tmp_path)
    anew.resume()
    anew.train([1, 2])

    assert anew.engine.weight == 3
    assert names(tmp_path) == ["latest", "step-00000002"]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


DAMAGES = {
    "a flipped bit": (flip_a_bit, r"expected the SHA-256 \w{16}\.\.\. by"),
    "a cut file": (cut, r"expected \d+ bytes of a checkpoint, found \d+"),
    "a missing file": (Path.unlink, "bytes of a checkpoint, found No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_before_anything_is_loaded(tmp_path, damage):
    World(tmp_path).train(range(1, 7))
    act, message = DAMAGES[damage]
    act(tmp_path / "checkpoints/step-00000006/engine.json")
    flip_a_bit(tmp_path / "checkpoints/step-00000004/engine.json")
    rank = World(tmp_path, weight=42)

    with pytest.raises(ResumeError, match=f"step-00000006/engine.json: .*{message}") as caught:
        rank.resume()

    assert str(caught.value).endswith(
        "; the newest intact one before it is step-00000002: resume with --from step-00000002"
    )
    assert rank.engine.weight == 42
    assert len(records(tmp_path)) == 6


@pytest.mark.parametrize("damage", [flip_a_bit, cut, Path.unlink])
def test_a_damaged_header_names_what_to_continue_from_instead(tmp_path, damage):
    World(tmp_path).train(range(1, 5))
    damage(tmp_path / "checkpoints/step-00000004/megadga.json")

    with pytest.raises(ResumeError, match=r"step-00000004.*resume with --from step-00000002"):
        World(tmp_path).resume()


def test_without_an_intact_checkpoint_none_is_suggested(tmp_path):
    World(tmp_path).train([1, 2])
    flip_a_bit(tmp_path / "checkpoints/step-00000002/engine.json")

    with pytest.raises(ResumeError, match=r"no earlier checkpoint is intact$"):
        World(tmp_path).resume()


def test_a_run_resumes_from_a_requested_checkpoint(tmp_path):
    (tmp_path / "straight").mkdir()
    (tmp_path / "back").mkdir()
    World(tmp_path / "straight").train(range(1, 8), save_at=[7])
    World(tmp_path / "back", keep_last=2).train(range(1, 7))
    flip_a_bit(tmp_path / "back/checkpoints/step-00000006/engine.json")

    back = World(tmp_path / "back", keep_last=2)
    back.resume("step-00000004")
    dead = World(tmp_path / "back", keep_last=2)
    dead.resume()  # as after a death before the next checkpoint
    dead.train([5], save_at=[5])
    assert "step-00000006" in names(tmp_path / "back")  # until the one after it has trained on
    dead.checkpoints.prune()
    assert names(tmp_path / "back") == ["latest", "step-00000004", "step-00000005"]
    dead.train([6, 7], save_at=[7])

    assert dead.engine.weight == sum(range(8))
    events = [r for r in records(tmp_path / "back") if r["type"] == "event"]
    assert [event["checkpoint"] for event in events] == ["step-00000004"]
    trained = [r for r in records(tmp_path / "back") if r["type"] == "train"]
    assert trained == records(tmp_path / "straight")


def test_a_missing_requested_checkpoint_is_refused(tmp_path):
    World(tmp_path).train(range(1, 5))

    with pytest.raises(ResumeError) as caught:
        World(tmp_path).resume("step-00000003")

    assert str(caught.value) == (
        f"--from: expected a checkpoint in {tmp_path}/checkpoints "
        "(step-00000002, step-00000004), found 'step-00000003'"
    )


@pytest.mark.parametrize("text", ["", "../elsewhere", "step-2", "step-00000002\nmore", "é\x00"])
def test_a_latest_that_names_no_checkpoint_is_refused(tmp_path, text):
    World(tmp_path).train([1, 2])
    (tmp_path / "checkpoints/latest").write_text(text)

    with pytest.raises(ResumeError, match="latest: expected the name of a checkpoint") as caught:
        World(tmp_path).resume()

    assert "--from step-00000002" in str(caught.value)


def test_a_latest_that_names_a_folder_that_is_gone_is_refused(tmp_path):
    World(tmp_path).train(range(1, 5))
    shutil.rmtree(tmp_path / "checkpoints/step-00000004")

    with pytest.raises(ResumeError, match=r"step-00000004: expected .*found no such folder"):
        World(tmp_path).resume()


def test_everything_is_on_the_disk_before_latest_names_it(tmp_path, monkeypatch):
    flushed = []
    fsync, rename = os.fsync, Path.replace

    def noted_fsync(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def noted_rename(path, target):
        if target.name == "latest":
            flushed.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    World(tmp_path).train([1, 2])

    checkpoints = tmp_path / "checkpoints"
    step = checkpoints / "step-00000002"
    before = flushed[: flushed.index("renamed")]
    assert {tmp_path / "metrics.jsonl", step / "engine.json", step, checkpoints} <= {*before}
    assert step / "megadga.json.partial" in before
    assert before.index(step / "megadga.json.partial") > before.index(step / "engine.json")
    assert checkpoints in flushed[flushed.index("renamed") :]


def test_the_one_before_stays_until_the_newest_is_known_to_be_good(tmp_path):
    world = World(tmp_path, keep_last=1)
    world.train(range(1, 5))
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000004"]

    world.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000004"]


def test_leftovers_of_a_crashed_run_are_pruned(tmp_path):
    World(tmp_path, keep_last=1).train(range(1, 5))
    resumed = World(tmp_path, keep_last=1)
    resumed.resume()

    resumed.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000004"]


def test_a_rank_that_writes_no_metrics_touches_no_file_of_its_own(tmp_path):
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)  # by the first rank
    rank = World(tmp_path, writes=False, keep_last=1)

    rank.checkpoints.save(2)
    rank.checkpoints.prune()

    assert names(tmp_path) == ["step-00000002"]
    assert [p.name for p in (tmp_path / "checkpoints/step-00000002").iterdir()] == ["engine.json"]


def test_metrics_of_a_run_that_left_no_checkpoint_are_put_aside(tmp_path):
    World(tmp_path).train([1])

    World(tmp_path).resume()

    assert records(tmp_path) == []
    assert (tmp_path / "metrics.abandoned.jsonl").exists()


def test_a_checkpoint_of_another_run_is_refused_before_anything_is_loaded(tmp_path):
    World(tmp_path).train([1, 2])
    other = World(tmp_path, identity={"seed": 8}, weight=42)

    with pytest.raises(ResumeError, match="seed: expected 7, found 8"):
        other.resume()

    assert other.engine.weight == 42
    assert len(records(tmp_path)) == 2


def test_a_plugin_without_a_state_may_join_and_one_with_a_state_may_not(tmp_path):
    World(tmp_path).train([1, 2])
    joined = World(tmp_path, more_plugins=[Counter("stateless", keeps=False)])
    joined.resume()
    assert joined.plugin.count == 3

    other = World(tmp_path, more_plugins=[Counter("other")])
    with pytest.raises(ResumeError, match=r"the plugin 'other', found those of \['counter'\]"):
        other.resume()


def test_files_that_deepspeed_misses_are_reported(tmp_path):
    World(tmp_path).train([1, 2])
    rank = World(tmp_path)
    rank.engine.misses_files = True

    with pytest.raises(ResumeError, match="step-00000002: expected DeepSpeed's files"):
        rank.resume()
