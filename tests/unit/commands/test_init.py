"""A run by `megadga init`: written once, complete, and fit for the commands that are printed."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from megadga.cli import main
from megadga.commands.init import EXAMPLES, commands_of, example_names
from megadga.config.loading import load_config
from megadga.config.validation import describe
from tests.support.huggingface import train_byte_level
from tests.support.texts import made_up_texts, write_lines
from tests.support.tools import run_command

SIZES = {"--vocab-size": "400", "--levels": "2", "--level": "2"}
"""What text of a test's size allows."""


def commands_printed_for(example: str, folder: Path) -> list[list[str]]:
    """The words of each command that `megadga init` prints; one may go over several lines."""
    done = run_command("init", folder, "--example", example)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.replace("\\\n", "").splitlines()
    change, *commands = (shlex.split(line) for line in lines if line.startswith("  "))
    assert change == ["cd", str(folder)]
    assert all(words[0] == "megadga" for words in commands)
    return [words[1:] for words in commands]


def write_base(folder: Path) -> None:
    """Write what a run needs to be checked of a model that it starts from."""
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 400}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    train_byte_level(folder / "tokenizer.json", vocab_size=400)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Shards for every example, made by the commands that are printed for it."""
    work = tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    for seed, name in enumerate(("text/novels", "text/plays")):
        write_lines(work / f"{name}.jsonl", made_up_texts(500, seed=seed))
    for seed, name in enumerate(("qa.train", "qa.valid", "law.train", "law.valid"), start=2):
        write_lines(work / f"{name}.jsonl", made_up_texts(100, seed=seed))
    write_base(work / "base")
    commands = [
        words
        for example in example_names()
        for words in commands_printed_for(example, work / "runs" / example)
        if words[0] == "data"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for words in dict.fromkeys(map(tuple, commands)):  # several examples share most
            sized = [SIZES.get(before, word) for before, word in pairwise(("", *words))]
            done = run_command(*sized)
            assert done.returncode == 0, done.stderr
    return work / "shards"


@pytest.mark.parametrize("example", example_names())
def test_a_run_passes_its_check_after_the_printed_commands(shards, tmp_path, monkeypatch, example):
    folder = tmp_path / "my run"
    commands = commands_printed_for(example, folder)
    (folder / "shards").symlink_to(shards)
    (folder / "base").symlink_to(shards.parent / "base")
    monkeypatch.chdir(folder)

    (check,) = [words for words in commands if words[0] == "check"]
    launches = [words[:3] for words in commands if words[0] == "launch"]

    done = run_command(*check, "--set", "sampling.max_epochs=null")  # there is little text here
    assert (done.returncode, done.stderr) == (0, "")
    assert launches
    assert all(words == ["launch", "local", "run.yaml"] for words in launches)


def test_the_run_is_the_example_with_every_deepspeed_file(tmp_path, capsys):
    assert main(["init", str(tmp_path / "new" / "run")]) == 0
    written = {
        str(path.relative_to(tmp_path / "new" / "run")): path.read_bytes()
        for path in (tmp_path / "new" / "run").rglob("*")
        if path.is_file()
    }
    assert written.pop("run.yaml") == (EXAMPLES / "dga.yaml").read_bytes()
    assert {f"deepspeed/zero{stage}.json" for stage in range(4)} <= written.keys()
    for name, content in written.items():
        assert content == (EXAMPLES / name).read_bytes()
    stages = [
        json.loads(written[f"deepspeed/zero{stage}.json"])["zero_optimization"]["stage"]
        for stage in range(4)
    ]
    assert stages == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["run.yaml"], "run.yaml"),
        ([f"{number}.txt" for number in range(7)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more"),
    ],
)
def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path, capsys, names, found):
    for name in names:
        (tmp_path / name).write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"megadga init: {tmp_path}: expected a new or empty folder, found {found}\n"
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "mine"
    )


def test_a_file_in_the_folders_place_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["init", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == (
        f"megadga init: {tmp_path}/file: expected a folder to write to, found: File exists\n"
    )


def test_an_unknown_example_is_refused_with_the_names_that_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["init", str(tmp_path / "run"), "--example", "dag"])
    assert "invalid choice: 'dag' (choose from '125m', 'baseline'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def keys_of(value: object, key: str = "") -> set[str]:
    """The dotted keys of nested mappings."""
    if not isinstance(value, dict) or not value:
        return {key}
    return {inner for name in value for inner in keys_of(value[name], f"{key}.{name}".lstrip("."))}


def test_the_default_example_names_every_key_with_a_comment():
    text = (EXAMPLES / "dga.yaml").read_text()
    config = load_config(EXAMPLES / "dga.yaml")
    described = {line.split(" = ")[0] for line in describe(config) if " = " in line}
    wanted = {key for key in described if not key.startswith("deepspeed.")}
    assert wanted - {"evaluation.sets"} <= keys_of(yaml.safe_load(text))


def test_every_example_begins_with_what_it_is_and_its_commands():
    for name in example_names():
        first, second, *_ = (EXAMPLES / f"{name}.yaml").read_text().splitlines()
        assert re.fullmatch(r"# \S.{20,85}\.", first), name
        assert second == "#"
        assert any(line.startswith("megadga check run.yaml") for line in commands_of(name))
