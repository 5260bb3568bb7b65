import json

import pytest

from megadga.errors import ResumeError
from megadga.train.checkpoints import CheckpointPlan, Checkpoints
from megadga.train.metrics import MetricsFile

IDENTITY = {"seed": 7}


class FolderEngine:
    """Saves its weight as a file.

    ``dies_while_saving`` stops it half way; ``misses_files`` finds nothing, as DeepSpeed would.
    """

    def __init__(self, weight=0):
        self.weight = weight
        self.dies_while_saving = False
        self.misses_files = False

    def save_checkpoint(self, save_dir, tag, client_state, *, save_latest):
        assert save_latest is False
        file = f"{save_dir}/{tag}/engine.json"
        with open(file, "w") as sink:  # noqa: PTH123
            json.dump({"weight": self.weight, "client": client_state}, sink)
        if self.dies_while_saving:
            raise KeyboardInterrupt

    def load_checkpoint(self, load_dir, tag):
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
        self.engine, self.plugin = FolderEngine(weight), Counter()
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.checkpoints = Checkpoints(
            self.engine,
            folder / "checkpoints",
            plan=CheckpointPlan(interval=2, last_step=5, keep_last=keep_last),
            plugins=[self.plugin, *more_plugins],
            identity=identity,
            metrics=self.metrics if writes else None,
        )

    def train(self, steps):
        for step in steps:
            self.engine.weight += step
            self.plugin.after_step(step)
            self.metrics.log(step, {"train": {"weight": self.engine.weight}})
            self.checkpoints.prune()
            if self.checkpoints.due(step):
                self.checkpoints.save(step)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_plan_has_the_interval_and_the_last_step():
    plan = CheckpointPlan(interval=2, last_step=5, keep_last=None)
    never = CheckpointPlan(interval=None, last_step=5, keep_last=None)

    assert [step for step in range(1, 6) if plan.due(step)] == [2, 4, 5]
    assert not any(never.due(step) for step in range(1, 6))


def test_a_resumed_run_continues_like_the_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = World(tmp_path / "whole")
    whole.checkpoints.resume()
    whole.train(range(1, 6))
    first = World(tmp_path / "parts")
    first.checkpoints.resume()
    first.train(range(1, 4))  # step 3 is lost: the last checkpoint is of step 2

    second = World(tmp_path / "parts")
    second.checkpoints.resume()
    second.train(range(3, 6))

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
    first.engine.dies_while_saving = True
    with pytest.raises(KeyboardInterrupt):
        first.train([4])

    second = World(tmp_path)
    second.checkpoints.resume()

    assert second.engine.weight == 1 + 2
    second.train([3, 4])
    third = World(tmp_path)
    third.checkpoints.resume()
    assert third.engine.weight == 1 + 2 + 3 + 4


def test_only_the_newest_stay(tmp_path):
    world = World(tmp_path, keep_last=2)
    world.train(range(1, 6))
    world.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000004", "step-00000005"]


def test_the_one_before_stays_until_the_newest_is_known_to_be_good(tmp_path):
    world = World(tmp_path, keep_last=1)
    world.train(range(1, 5))
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000004"]

    world.checkpoints.prune()

    assert names(tmp_path) == ["latest", "step-00000004"]


def test_what_a_run_that_died_has_left_goes_with_the_next(tmp_path):
    World(tmp_path, keep_last=1).train(range(1, 5))
    resumed = World(tmp_path, keep_last=1)
    resumed.checkpoints.resume()

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

    World(tmp_path).checkpoints.resume()

    assert records(tmp_path) == []
    assert (tmp_path / "metrics.abandoned.jsonl").exists()


def test_a_checkpoint_of_another_run_is_refused_before_anything_is_loaded(tmp_path):
    World(tmp_path).train([1, 2])
    other = World(tmp_path, identity={"seed": 8}, weight=42)

    with pytest.raises(ResumeError, match="seed: expected 7, found 8"):
        other.checkpoints.resume()

    assert other.engine.weight == 42
    assert len(records(tmp_path)) == 2


def test_a_plugin_without_a_state_may_join_and_one_with_a_state_may_not(tmp_path):
    World(tmp_path).train([1, 2])
    joined = World(tmp_path, more_plugins=[Counter("stateless", keeps=False)])
    joined.checkpoints.resume()
    assert joined.plugin.count == 3

    other = World(tmp_path, more_plugins=[Counter("other")])
    with pytest.raises(ResumeError, match=r"the plugin 'other', found those of \['counter'\]"):
        other.checkpoints.resume()


def test_files_that_deepspeed_misses_are_reported(tmp_path):
    World(tmp_path).train([1, 2])
    rank = World(tmp_path)
    rank.engine.misses_files = True

    with pytest.raises(ResumeError, match="step-00000002: expected DeepSpeed's files"):
        rank.checkpoints.resume()
