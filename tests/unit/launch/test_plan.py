import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from megadga.launch import plan as plans
from megadga.launch.hosts import Host
from megadga.launch.plan import Plan, PrivateFile, show
from megadga.launch.supervision import Command, Timeouts
from megadga.terminal import PinnedRows
from tests.support.screens import Screen
from tests.unit.launch.hosts import HOSTILE

PATIENCE = Timeouts(stop_s=5.0, straggle_s=0.2, end_s=0.5)


def plan(program: str, folder: Path, **options) -> Plan:
    command = Command((sys.executable, "-c", program), os.environ, folder)
    return Plan((command,), (Host("a", 1),), PATIENCE, **options)


def run(planned: Plan, output: Path, tell=lambda _: None, *, ended_normally: bool = True) -> int:
    return plans.run(planned, output=output, ended_normally=lambda: ended_normally, tell=tell)


COUNT = """\
import sys
from pathlib import Path
starts = Path("n")
n = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (n + 1))
"""
MODE_AND_TEXT = """\
import os
print(oct(os.stat("job.json").st_mode), open("job.json").read(), file=open("seen", "w"))
"""
REPORT = """\
import os, sys
told = sys.argv[1:], os.getcwd(), os.environ["A"], os.environ.get("B"), sys.stdin.readline()
print(*told, sep="|", end="")
"""


@pytest.mark.parametrize(
    ("codes", "starts", "last"),
    [([7, 7, 0], 3, 0), ([7, 7, 7, 7], 3, 7), ([0], 1, 0), ([2], 1, 2), ([7, 75], 2, 75)],
)
def test_a_run_that_failed_is_started_again_unless_that_cannot_help(tmp_path, codes, starts, last):
    told = []
    program = f"{COUNT}sys.exit({codes}[n])"

    assert run(plan(program, tmp_path, max_restarts=2), tmp_path, told.append) == last

    assert len((tmp_path / "n").read_text()) == starts
    assert len([line for line in told if "starting again" in line]) == starts - 1


def test_processes_that_end_with_0_before_the_run_has_ended_have_failed(tmp_path):
    told = []
    planned = plan(COUNT, tmp_path, max_restarts=1)
    assert run(planned, tmp_path, told.append, ended_normally=False) == 1
    assert len((tmp_path / "n").read_text()) == 2
    assert told[-1] == "the run ended with code 1: no rank recorded a failure"


def test_the_last_line_says_what_the_first_rank_to_fail_has_noted(tmp_path):
    told = []
    notes = "import os, sys; os.mkdir('.failures'); open('.failures/1', 'w').write('rank 1 on h2')"
    run(plan(f"{notes}; sys.exit(7)", tmp_path), tmp_path, told.append)
    assert told[-1] == "the run ended with code 7: rank 1 on h2"


def test_the_last_line_names_the_hosts_that_do_not_answer_any_more(tmp_path):
    told = []
    run(plan("raise SystemExit(7)", tmp_path, lost=lambda: ["h2"]), tmp_path, told.append)
    assert told[-1] == "the run ended with code 7: no rank recorded a failure; lost hosts: h2"


def test_a_terminal_gets_back_the_rows_of_a_rank_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with Screen(lines=6, columns=20) as screen:
        monkeypatch.setattr(sys, "stderr", screen.stream)
        view = PinnedRows.on(screen.stream)
        assert view is not None
        view.show(["of the rank", "of the rank"])
        planned = plan("import os; os.kill(os.getpid(), 9)", tmp_path)

        run(planned, tmp_path, lambda _: screen.write("it was killed\n"))

        assert screen.lines() == ["it was killed", *[""] * 5]
        view.close()


def test_a_private_file_is_there_while_the_run_is_and_for_nobody_else(tmp_path):
    path = tmp_path / "job.json"

    run(plan(MODE_AND_TEXT, tmp_path, file=PrivateFile(path, "text")), tmp_path)

    mode, text = (tmp_path / "seen").read_text().split()
    assert (stat.S_IMODE(int(mode, base=8)), text) == (0o600, "text")
    assert not path.exists()


def test_the_stop_file_does_not_outlive_the_run(tmp_path):
    path = tmp_path / "stop"
    run(plan("open('stop', 'w')", tmp_path, stop_file=path), tmp_path)
    assert not path.exists()


def test_what_is_shown_does_the_same_in_a_shell(tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    environment = {**os.environ, "B": "unset"}
    command = Command(
        (sys.executable, "-c", REPORT, HOSTILE),
        {**os.environ, "A": HOSTILE},
        folder,
        b'{"a": "$b"}\n',
    )
    file = PrivateFile(folder / "job.json", '{"c": "`d`"}\n')
    text = show(Plan((command,), (), PATIENCE, file=file), environment)

    done = subprocess.run(
        ["sh"], input=text, env=environment, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == f'{[HOSTILE]}|{folder}|{HOSTILE}|None|{{"a": "$b"}}\n'
    assert file.path.read_text() == file.text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_no_line_of_a_text_ends_it_early(tmp_path):
    text = "a\nEND\ntouch escaped\nEND1\n'END'\n  END\nEND2\nEND"
    command = Command(("cat",), {}, tmp_path, f"{text}\n".encode())
    file = PrivateFile(tmp_path / "job.json", f"{text}\n")
    shown = show(Plan((command,), (), PATIENCE, file=file), {})
    # Without the pulse, which would go on for ever: `cat` reads all that there is.
    shown = re.sub(r"while echo; do sleep \d+; done; ", "", shown)

    done = subprocess.run(
        ["sh"], input=shown, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == f"{text}\n"
    assert file.path.read_text() == file.text
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_values_that_a_shell_has_anyway_are_not_shown():
    environment = {"HF_TOKEN": "hush", "PATH": "/bin"}
    command = Command(("a",), {**environment, "RANK": "0"}, Path("/"))
    text = show(Plan((command,), (), PATIENCE), environment)
    assert text == "cd / && env RANK=0 a"
