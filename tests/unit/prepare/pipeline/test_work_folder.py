import json

import pytest

from megadga.data.manifest import ShardEntry
from megadga.errors import ConfigError
from megadga.prepare.pipeline.work_folder import RunRecord, TaskRecord, TaskReject, WorkFolder

PLAN = {"recipe": {"seed": 3}, "files": [["a", 1], ["b", 2]]}
RECORD = TaskRecord([RunRecord("000007-0000", ["x", "y"], 12345)], 12, 2, [8, 4])
ENTRY = ShardEntry("train-00000", 2, 9, 4, "a" * 64, "b" * 64)


@pytest.fixture
def work_folder(tmp_path) -> WorkFolder:
    return WorkFolder(tmp_path / ".out.building")


def begin(work_folder: WorkFolder, plan=PLAN) -> None:
    with work_folder.claim(plan):
        work_folder.run_prefix("000007-0000").with_suffix(".index").touch()


def test_finished_work_persists(work_folder):
    with work_folder.claim(PLAN):
        work_folder.save_task(7, RECORD, [TaskReject(0, 3, "bad é"), TaskReject(1, 1, "worse")])
        work_folder.save_shard("web", ENTRY)
        work_folder.run_prefix("000007-0000").with_suffix(".index").touch()
    with work_folder.claim(PLAN):
        assert work_folder.task_record(7) == RECORD
        assert list(work_folder.rejected(7)) == [
            TaskReject(0, 3, "bad é"),
            TaskReject(1, 1, "worse"),
        ]
        assert work_folder.shard_entry("web", "train-00000") == ENTRY


def test_an_empty_record_is_ignored(work_folder):
    with work_folder.claim(PLAN):
        work_folder.save_task(7, RECORD, [])
        work_folder.save_shard("web", ENTRY)
        for path in (*work_folder.folder.glob("tasks/*"), *work_folder.folder.glob("entries/*/*")):
            path.write_bytes(b"")
        assert work_folder.task_record(7) is None
        assert work_folder.shard_entry("web", "train-00000") is None


def test_unfinished_work_is_not_reported(work_folder):
    with work_folder.claim(PLAN):
        assert work_folder.task_record(0) is None
        assert list(work_folder.rejected(0)) == []
        assert work_folder.shard_entry("web", "train-00000") is None


@pytest.mark.parametrize(
    ("plan", "difference"),
    [
        ({**PLAN, "recipe": {"seed": 4}}, "recipe.seed: expected 3, found 4"),
        ({**PLAN, "files": [["a", 1], ["c", 2]]}, 'files[1][0]: expected "b", found "c"'),
        ({**PLAN, "files": [["a", 1]]}, 'files[1][0]: expected "b", found None'),
        ({**PLAN, "more": True}, "more: expected None, found true"),
    ],
)
def test_a_different_plan_is_refused_with_the_first_difference(work_folder, plan, difference):
    begin(work_folder)
    with pytest.raises(ConfigError) as caught, work_folder.claim(plan):
        pass
    assert f"plan.json: {difference}: a different build" in str(caught.value)


def test_a_different_plan_replaces_one_without_results(work_folder):
    with work_folder.claim(PLAN):
        work_folder.save_task(7, RECORD, [])
    with work_folder.claim({"recipe": {"seed": 4}}):
        assert work_folder.task_record(7) is None
    assert json.loads((work_folder.folder / "plan.json").read_text()) == {"recipe": {"seed": 4}}


def test_work_without_a_plan_is_discarded(work_folder):
    with work_folder.claim(PLAN):
        work_folder.save_shard("web", ENTRY)
        work_folder.run_prefix("000007-0000").with_suffix(".index").touch()
    (work_folder.folder / "plan.json").unlink()
    with work_folder.claim(PLAN):
        assert work_folder.shard_entry("web", "train-00000") is None
        assert list((work_folder.folder / "runs").iterdir()) == []


def test_a_build_recognises_its_own_work_folder(work_folder):
    assert not work_folder.is_of(PLAN)
    begin(work_folder)
    assert work_folder.is_of({**PLAN, "files": (("a", 1), ("b", 2))})
    assert not work_folder.is_of({**PLAN, "files": []})


def test_leftovers_of_an_interrupted_removal_are_removed(work_folder):
    half = work_folder.folder.with_name(f"{work_folder.folder.name}.removed")
    half.mkdir()
    (half / "runs").mkdir()
    begin(work_folder)
    assert not half.exists()


def test_a_second_build_is_refused(work_folder):
    with (
        work_folder.claim(PLAN),
        pytest.raises(ConfigError, match="expected no other build in progress, found one"),
        work_folder.claim(PLAN),
    ):
        pass


def test_stale_progress_files_are_removed(work_folder):
    with work_folder.claim(PLAN):
        work_folder.progress_path(3).write_text("17")
        assert work_folder.progress_paths() == [work_folder.progress_path(3)]
    with work_folder.claim(PLAN):
        assert work_folder.progress_paths() == []


def test_removal_deletes_all_contents(work_folder):
    with work_folder.claim(PLAN):
        work_folder.save_task(7, RECORD, [TaskReject(0, 1, "bad")])
        work_folder.remove()
    assert list(work_folder.folder.parent.iterdir()) == []
