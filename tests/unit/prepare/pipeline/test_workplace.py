import json

import pytest

from megadga.data.manifest import ShardEntry
from megadga.errors import ConfigError
from megadga.prepare.pipeline.workplace import Rejected, RunRecord, TaskRecord, Workplace

PLAN = {"recipe": {"seed": 3}, "files": [["a", 1], ["b", 2]]}
RECORD = TaskRecord([RunRecord("000007-0000", ["x", "y"], 12345)], 12, 2, [8, 4])
ENTRY = ShardEntry("train-00000", 2, 9, 4, "a" * 64, "b" * 64)


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    return Workplace(tmp_path / ".out.building")


def begin(workplace: Workplace, plan=PLAN) -> None:
    with workplace.claimed(plan):
        workplace.run_prefix("000007-0000").with_suffix(".index").touch()


def test_what_is_finished_is_there_after_it_was_left(workplace):
    with workplace.claimed(PLAN):
        workplace.keep_task(7, RECORD, [Rejected(0, 3, "bad é"), Rejected(1, 1, "worse")])
        workplace.keep_shard("web", ENTRY)
        workplace.run_prefix("000007-0000").with_suffix(".index").touch()
    with workplace.claimed(PLAN):
        assert workplace.task_record(7) == RECORD
        assert list(workplace.rejected(7)) == [Rejected(0, 3, "bad é"), Rejected(1, 1, "worse")]
        assert workplace.shard_entry("web", "train-00000") == ENTRY


def test_a_record_that_a_power_cut_emptied_is_not_there(workplace):
    with workplace.claimed(PLAN):
        workplace.keep_task(7, RECORD, [])
        workplace.keep_shard("web", ENTRY)
        for path in (*workplace.folder.glob("tasks/*"), *workplace.folder.glob("entries/*/*")):
            path.write_bytes(b"")
        assert workplace.task_record(7) is None
        assert workplace.shard_entry("web", "train-00000") is None


def test_what_is_not_finished_is_not_there(workplace):
    with workplace.claimed(PLAN):
        assert workplace.task_record(0) is None
        assert list(workplace.rejected(0)) == []
        assert workplace.shard_entry("web", "train-00000") is None


@pytest.mark.parametrize(
    ("plan", "difference"),
    [
        ({**PLAN, "recipe": {"seed": 4}}, "recipe.seed: expected 3, found 4"),
        ({**PLAN, "files": [["a", 1], ["c", 2]]}, 'files[1][0]: expected "b", found "c"'),
        ({**PLAN, "files": [["a", 1]]}, 'files[1][0]: expected "b", found None'),
        ({**PLAN, "more": True}, "more: expected None, found true"),
    ],
)
def test_another_plan_is_refused_with_what_differs_first(workplace, plan, difference):
    begin(workplace)
    with pytest.raises(ConfigError) as caught, workplace.claimed(plan):
        pass
    assert f"plan.json: {difference}: a build of something else" in str(caught.value)


def test_another_plan_replaces_one_that_has_left_nothing(workplace):
    with workplace.claimed(PLAN):
        workplace.keep_task(7, RECORD, [])
    with workplace.claimed({"recipe": {"seed": 4}}):
        assert workplace.task_record(7) is None
    assert json.loads((workplace.folder / "plan.json").read_text()) == {"recipe": {"seed": 4}}


def test_nothing_of_a_plan_that_was_not_begun_is_taken_for_finished(workplace):
    with workplace.claimed(PLAN):
        workplace.keep_shard("web", ENTRY)
        workplace.run_prefix("000007-0000").with_suffix(".index").touch()
    (workplace.folder / "plan.json").unlink()
    with workplace.claimed(PLAN):
        assert workplace.shard_entry("web", "train-00000") is None
        assert list((workplace.folder / "runs").iterdir()) == []


def test_it_tells_whose_build_stopped_there(workplace):
    assert not workplace.holds(PLAN)
    begin(workplace)
    assert workplace.holds({**PLAN, "files": (("a", 1), ("b", 2))})
    assert not workplace.holds({**PLAN, "files": []})


def test_what_a_kill_left_of_a_removal_is_removed(workplace):
    half = workplace.folder.with_name(f"{workplace.folder.name}.removed")
    half.mkdir()
    (half / "runs").mkdir()
    begin(workplace)
    assert not half.exists()


def test_nobody_else_may_work_there(workplace):
    with (
        workplace.claimed(PLAN),
        pytest.raises(ConfigError, match="expected nobody at work here, found another build"),
        workplace.claimed(PLAN),
    ):
        pass


def test_progress_that_a_kill_left_behind_is_forgotten(workplace):
    with workplace.claimed(PLAN):
        workplace.progress_path(3).write_text("17")
        assert workplace.progress_paths() == [workplace.progress_path(3)]
    with workplace.claimed(PLAN):
        assert workplace.progress_paths() == []


def test_it_is_removed_with_all_that_is_in_it(workplace):
    with workplace.claimed(PLAN):
        workplace.keep_task(7, RECORD, [Rejected(0, 1, "bad")])
        workplace.remove()
    assert list(workplace.folder.parent.iterdir()) == []
