import os
import signal
from collections.abc import Callable
from pathlib import Path

from megadga.sweep.pool import Job, JobEnded, Slots, run_jobs

TWO = Slots(({"PLACE": "0"}, {"PLACE": "1"}))


def never() -> bool:
    return False


def jobs(folder: Path, *scripts: str) -> list[Job]:
    return [
        Job(f"j{index}", ("-c", script), folder / f"j{index}" / "output.log")
        for index, script in enumerate(scripts)
    ]


def run(
    some: list[Job], slots: Slots = TWO, stop: Callable[[], bool] = never
) -> dict[str, JobEnded]:
    ended = run_jobs(some, slots, stop_requested=stop, environment=os.environ)
    return {each.job.name: each for each in ended}


def test_each_job_is_run_once_and_its_exit_code_told(tmp_path):
    found = run(jobs(tmp_path, "print('all well')", "raise SystemExit(3)", "pass"))
    assert {name: each.code for name, each in found.items()} == {"j0": 0, "j1": 3, "j2": 0}
    assert (tmp_path / "j0" / "output.log").read_text() == "all well\n"


def test_a_job_that_is_killed_has_the_signals_code(tmp_path):
    found = run(jobs(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert found["j0"].code == 128 + signal.SIGKILL


def test_no_more_jobs_run_at_a_time_than_there_are_places(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    # A job is alone in its place: it makes the place's folder, which must not be there.
    script = f"""
import os, time
place = {str(marks)!r} + '/' + os.environ['PLACE']
os.mkdir(place)
time.sleep(0.05)
os.rmdir(place)
"""
    found = run(jobs(tmp_path, *[script] * 5))
    assert [each.code for each in found.values()] == [0] * 5


def test_when_asked_to_stop_those_that_run_get_a_signal_and_no_other_starts(tmp_path):
    waiting = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    one = Slots(({},))
    found = run(jobs(tmp_path, waiting, "pass"), one, (tmp_path / "ready").exists)
    assert {name: each.code for name, each in found.items()} == {"j0": 75}
    assert not (tmp_path / "j1").exists()


def test_cores_are_shared_unless_the_user_has_said_how_many_threads():
    alone = Slots.on_cores(1, {}).environments[0]
    assert alone["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    crowded = Slots.on_cores(1000, {})
    assert len(crowded.environments) == 1000
    assert crowded.environments[0]["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in Slots.on_cores(2, {"OMP_NUM_THREADS": "3"}).environments[0]


def test_each_accelerator_is_a_place():
    assert [
        each["CUDA_VISIBLE_DEVICES"] for each in Slots.on_accelerators(2, None).environments
    ] == [
        "0",
        "1",
    ]
    visible = Slots.on_accelerators(2, "5,GPU-3f").environments
    assert [each["CUDA_VISIBLE_DEVICES"] for each in visible] == ["5", "GPU-3f"]
