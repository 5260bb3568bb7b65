import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from megadga.launch import slurm
from megadga.launch.slurm import main, sbatch_command, slurm_script
from tests.support.ranks import own_session
from tests.support.runs import write_run
from tests.unit.launch.hosts import HOSTILE, PYTHON, TRAIN, request

# What the batch shell calls, as far as the script sees it: srun runs one task and passes USR1 on.
SRUN = """\
#!/bin/bash
task=
trap 'kill -USR1 $task' USR1
printf '%s\\0' "$MEGADGA_RANKS" "$MASTER_ADDR" "$MASTER_PORT" > srun-environment
while [ "$1" != bash ]; do shift; done
"$@" & task=$!
while wait $task; code=$?; kill -0 $task 2> /dev/null; do :; done
exit $code
"""
SCONTROL = """\
#!/bin/bash
if [ "$1" = show ]; then printf 'node-7\\nnode-8\\n'; else echo "$@" > requeued; fi
"""
SINFO = """\
#!/bin/bash
[ "$4" = "--nodes=node-[7-8]" ] && printf 'node-8\\nnode-9\\n'
"""
TASK = f"""\
#!{sys.executable}
import os, signal, sys, time
from pathlib import Path

if "doctor" in sys.argv:
    Path("doctor-arguments").write_text("\\0".join((*sys.argv, "")))
    sys.exit(int(os.environ["UNFIT"]))
if "megadga.run_folder.failures" in sys.argv:
    Path("describe_failure-arguments").write_text("\\0".join((*sys.argv, "")))
    sys.exit()

def stop(*_):
    Path(os.environ["OUT"], os.environ["MARKER"]).touch()
    sys.exit(75)

Path("task-arguments").write_text("\\0".join((*sys.argv, "")))
Path("started").touch()
time.sleep(0.5)  # the signal is ignored until there is a handler
signal.signal(signal.SIGUSR1, stop)
while os.environ["FOREVER"]:
    time.sleep(0.05)
sys.exit(int(os.environ["CODE"]))
"""
PROGRAMS = {"srun": SRUN, "scontrol": SCONTROL, "sinfo": SINFO, "python": TASK}


@dataclass
class Batch:
    """A folder in which the script runs.

    Attributes:
        folder: The working directory.
        output: The run's folder.
        script: The batch script.
    """

    folder: Path
    output: Path
    script: str

    @contextmanager
    def started(self, **variables: str) -> Generator[subprocess.Popen[bytes]]:
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": "12345",
            "SLURM_JOB_NODELIST": "node-[7-8]",
            "OUT": str(self.output),
            "MARKER": "REQUEUE",
            "FOREVER": "yes",
            "CODE": "0",
            "UNFIT": "0",
            **variables,
        }
        command = ["bash", "-c", self.script]
        with own_session(command, cwd=self.folder, env=environment) as job:
            self.wait_for("doctor-arguments" if variables.get("UNFIT") else "started")
            yield job

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < until
            time.sleep(0.02)

    def words(self, name: str) -> list[str]:
        return (self.folder / name).read_text().split("\0")[:-1]


@pytest.fixture
def batch(tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "")
    output = folder / "out put"
    output.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    script = slurm_script(request(), output, python=str(folder / "bin/python"))
    return Batch(folder, output, script.replace("sleep 5", "sleep 0.1"))


def test_the_script_asks_for_a_task_an_accelerator_and_a_signal_in_time_to_save():
    script = slurm_script(request(time_s=90_000, save_s=90), Path("/out"), python=PYTHON)
    assert script.splitlines()[:7] == [
        "#!/bin/bash",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --time=1-01:00:00",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@90",
    ]
    assert "--time" not in slurm_script(request(), Path("/out"), python=PYTHON)


def test_the_script_is_one_for_any_names():
    script = slurm_script(request(), Path(f"/out/{HOSTILE}"), python=PYTHON)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_ranks_get_their_command_and_their_first_machine_as_they_are(batch):
    with batch.started(FOREVER="") as job:
        assert job.wait(timeout=30) == 0
    assert batch.words("task-arguments") == [f"{batch.folder}/bin/python", *TRAIN[1:]]
    assert batch.words("srun-environment") == ["4", "node-7", str(20_000 + 12_345 % 12_000)]
    assert not (batch.folder / "requeued").exists()


def test_a_code_of_the_ranks_is_that_of_the_job_which_says_why_at_its_end(batch):
    with batch.started(FOREVER="", CODE="2") as job:
        assert job.wait(timeout=30) == 2
    assert batch.words("describe_failure-arguments")[2:] == [
        "megadga.run_folder.failures",
        "2",
        str(batch.output),
        "node-8",
        "node-9",
    ]


def test_hosts_are_looked_at_before_any_rank_starts(batch):
    with batch.started(UNFIT="1") as job:
        assert job.wait(timeout=30) == 1
    assert batch.words("doctor-arguments")[3:] == [
        *("doctor", "--no-all-reduce", "--accelerators-per-node=2"),
        *TRAIN[5:],
    ]
    assert not (batch.folder / "started").exists()
    assert not (batch.folder / "requeued").exists()


def test_what_ranks_of_an_earlier_start_have_noted_is_forgotten(batch):
    (batch.output / ".failures").mkdir()
    with batch.started(FOREVER="") as job:
        assert job.wait(timeout=30) == 0
    assert not (batch.output / ".failures").exists()
    assert not (batch.folder / "describe_failure-arguments").exists()


def test_near_its_limit_a_job_that_saved_is_requeued(batch):
    with batch.started() as job:
        job.send_signal(signal.SIGUSR1)
        job.wait(timeout=30)
    assert (batch.folder / "requeued").read_text() == "requeue 12345\n"


def test_a_job_that_finished_near_its_limit_is_not(batch):
    with batch.started(MARKER="DONE") as job:
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == 75
    assert not (batch.folder / "requeued").exists()


def test_a_job_that_was_cancelled_saves_and_stays_cancelled(batch):
    with batch.started() as job:
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=30) == 75
    assert (batch.output / "REQUEUE").exists()
    assert not (batch.folder / "requeued").exists()


def test_paths_and_options_reach_sbatch_as_they_are():
    command = sbatch_command(Path("/out/50% $x"), ["gres=gpu:8", "comment=a b", "exclusive"])
    assert command == (
        *("sbatch", "--output=/out/50%% $x/slurm-%j.log"),
        *("--gres=gpu:8", "--comment=a b", "--exclusive"),
    )


@pytest.mark.parametrize("option", ["nodes=3", "-p gpu", "time=1", "=x", "--partition=a"])
def test_an_option_that_is_the_launchers_own_or_none_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run.yaml", "--accelerators-per-node=2", f"--sbatch-option={option}"])
    assert stop.value.code == 2
    assert "expected KEY=VALUE with another KEY than nodes" in capsys.readouterr().err


def test_ranks_that_cannot_share_the_batch_are_refused_before_submission(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    assert main(["run.yaml", "--accelerators-per-node=3"]) == 2
    assert "expected a multiple of training.micro_batch_size x ranks" in capsys.readouterr().err
    assert main(["run.yaml"]) == 2
    assert "--accelerators-per-node: expected the ranks of a node" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["x\nEND\ntouch escaped\n", "END\nEND1", HOSTILE, "a\n\n"])
def test_a_dry_run_that_is_pasted_submits_the_script_and_does_nothing_else(
    tmp_path, monkeypatch, capsys, value
):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\ncat > submitted\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    arguments = ["run.yaml", "--accelerators-per-node=2", f"--set=output={json.dumps(value)}"]
    scripts: list[str] = []
    monkeypatch.setattr(
        slurm, "slurm_script", lambda *rest: scripts.append(slurm_script(*rest)) or scripts[0]
    )
    before = {path.name for path in tmp_path.iterdir()}

    assert main([*arguments, "--dry-run"]) == 0
    subprocess.run(
        ["sh"],
        input=capsys.readouterr().out,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        text=True,
        check=True,
    )

    assert (tmp_path / "submitted").read_text() == scripts[0]
    assert {path.name for path in tmp_path.iterdir()} == {*before, "submitted"}
