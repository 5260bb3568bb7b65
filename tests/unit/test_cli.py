import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import megadga
from megadga.cli import MEGADGA, Entry, main
from megadga.config.loading import load_config
from megadga.run_folder.markers import RunMarkers
from tests.support.leaks import write_leak
from tests.support.runs import RUN, write_run
from tests.support.shards import write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_check_prints_what_the_run_comes_to_and_writes_nothing(folder, capsys):
    before = files_in(folder)
    assert main(["check", "run.yaml", "--set", "training.steps=20", "--world-size", "2"]) == 0
    assert "20 steps x 8 sequences x 8 tokens" in capsys.readouterr().out
    assert files_in(folder) == before


@pytest.fixture
def leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    return write_leak(tmp_path)


def test_check_looks_for_leakage_when_asked(leak, capsys):
    assert main(["check", "run.yaml"]) == 0
    lines = capsys.readouterr().out
    assert main(["check", "run.yaml", "--leakage"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{lines}\ntarget: 5 held-out documents, 112 n-grams of 13 tokens; ")
    # Of the four documents' 28 n-grams each, one document's.
    assert out.splitlines()[-4].split()[:4] == ["leaky", "28", "25.00%", "1"]
    assert err == ""


@pytest.mark.parametrize(("most", "code"), [("0.25", 0), ("0.2", 1)])
def test_more_leakage_than_allowed_is_exit_code_1_and_names_the_domain(leak, capsys, most, code):
    assert main(["check", "run.yaml", "--leakage", "--max-leakage", most]) == code
    out, err = capsys.readouterr()
    assert "clean" in out
    assert err == code * (
        "target: expected at most 20.00% of its held-out n-grams in one place, "
        "found 25.00% in leaky, 25.00% in all domains\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-leakage", "0.1"], "--max-leakage: expected --leakage beside it, found none"),
        (["--leakage", "--max-leakage", "5"], "max_overlap: expected 0 <= F <= 1, found 5.0"),
        (
            ["--leakage", "--set", "data.specific={target: {path: domains/leaky}}"],
            "override 1: data.specific: expected a set with a validation split, found none",
        ),
    ],
)
def test_leakage_that_cannot_be_looked_for_is_one_line(leak, capsys, arguments, message):
    assert main(["check", "run.yaml", *arguments]) == 2
    assert capsys.readouterr() == ("", f"{message}\n")


def test_describe_needs_no_shards(tmp_path, capsys):
    path = write_run(tmp_path)
    assert main(["describe", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mixing.step_size = 0.5" in lines
    assert lines[-1] == "787,584 parameters, and 128 for each token of the shards' vocabulary"
    assert main(["describe", str(path), "--set", "model.vocabulary_size=64"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "795,776 parameters"


@pytest.mark.parametrize("command", ["train", "check", "describe"])
def test_issues_are_a_line_each_and_exit_code_2(folder, capsys, command):
    text = RUN.replace("output", "outptu").replace("steps: 10", "steps: x")
    (folder / "run.yaml").write_text(text)
    before = files_in(folder)
    assert main([command, "run.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "run.yaml:1: output: expected a value, found nothing",
        "run.yaml:2: outptu: expected a known key, found 'outptu'; did you mean 'output'?",
        "run.yaml:11: training.steps: expected a valid integer, found 'x'",
    ]
    assert files_in(folder) == before


def test_ranks_other_than_the_first_say_who_complains(folder, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert main(["check", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("[rank 3] nowhere.yaml: expected a readable file")


def test_other_ranks_than_a_launcher_was_asked_for_are_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("MEGADGA_RANKS", "4")
    assert main(["train", "run.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("MEGADGA_RANKS: expected 4 ranks, found 1")


def test_a_finished_run_is_not_started_again(folder, capsys):
    (folder / "out").mkdir()
    RunMarkers(load_config(Path("run.yaml"), []), writes=True).end(10, finished=True)
    assert main(["train", "run.yaml"]) == 0
    assert capsys.readouterr().out == "out: finished after step 10; nothing is left to train\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation=null", "override 1: evaluation: expected a section, found null"),
        ("output=new", "override 1: output: expected a run with a checkpoint, found none in new"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_made(
    folder, capsys, override, message
):
    before = files_in(folder)
    assert main(["evaluate", "run.yaml", f"--set={override}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert files_in(folder) == before


def test_a_damaged_shard_is_one_line(folder, capsys):
    shard = folder / "domains" / "d0" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert main(["check", "run.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "train-00000.bin" in line


def programs(group: Entry, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words that each program is called by."""
    for name, entry in group.commands.items():
        if entry.program:
            yield (*words, name)
        yield from programs(entry, (*words, name))


@pytest.mark.parametrize("words", list(programs(MEGADGA)), ids=" ".join)
def test_every_command_explains_itself_by_its_name(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: megadga {' '.join(words)} ")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--help"], ["init", "data", "check", "launch", "train", "doctor"]),
        (["data", "--help"], ["tokenizer", "build", "verify", "leakage"]),
        (["launch", "--help"], ["local", "slurm", "k8s"]),
    ],
)
def test_help_lists_the_commands(capsys, arguments, names):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert set(names) <= {line[0] for line in lines if line}


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"megadga {megadga.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["chek"],
        ["data"],
        ["data", "buidl"],
        ["launch", "slrum"],
        ["check"],
        ["check", "run.yaml", "--world-size", "0"],
    ],
)
def test_a_wrong_command_line_exits_with_2(folder, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: megadga" in capsys.readouterr().err


def test_the_launchers_local_rank_is_taken_before_the_command(folder, capsys):
    assert main(["--local_rank=1", "check", "run.yaml"]) == 0
    assert capsys.readouterr().out


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_imports_no_command():
    done = run_python(
        "-c",
        "import sys, megadga.cli\n"
        "try:\n"
        "    megadga.cli.main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'numpy', 'pydantic', 'torch', 'tqdm', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_starts_without_torch(folder):
    done = run_python(
        "-c",
        "import sys, megadga.cli\n"
        "code = megadga.cli.main(['check', 'run.yaml'])\n"
        "heavy = {'torch', 'deepspeed', 'sentencepiece', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)\n",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_takes_less_than_two_seconds(folder):
    before = os.times()
    assert run_python("-m", "megadga.cli", "check", "run.yaml").returncode == 0
    after = os.times()
    # Of processor time: others may be busy on this machine.
    spent = after.children_user + after.children_system
    assert spent - before.children_user - before.children_system < 2.0


def test_an_issue_leaves_no_traceback_under_deepspeeds_launcher(folder):
    command = ("-m", "megadga.cli", "--local_rank=0", "train", "run.yaml", "--set", "sed=1")
    done = run_python(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "override 1: sed: expected a known key, found 'sed'; did you mean 'seed'?\n"
    )


def test_checksums_are_compared_if_asked_to(folder, capsys):
    shard = folder / "domains" / "d0" / "train-00000.bin"
    assert main(["check", "run.yaml", "--verify"]) == 0
    assert "all match their manifests" in capsys.readouterr().out
    shard.write_bytes(shard.read_bytes()[::-1][1:] + b"\x00")

    assert main(["check", "run.yaml"]) == 0
    assert main(["check", "run.yaml", "--verify"]) == 2

    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert line.startswith("domains/d0/train-00000.bin: bin_sha256: expected")
