"""Scoring and selecting through the commands, with a scorer that needs no model."""

from pathlib import Path

import numpy as np
import pytest

from megadga.cli import main
from megadga.prepare.training import train_tokenizer
from tests.support.clusters import SUBJECTS, learn, texts_about
from tests.support.scores import scores_of
from tests.support.texts import write_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards of 30 texts on the sea and one on code, and a clustering of such texts."""
    folder = tmp_path_factory.mktemp("score")
    texts = [*texts_about("sea", 30, seed=1), *texts_about("code", 1, seed=1)]
    write_lines(folder / "web.jsonl", texts)
    learn(folder)
    words = [each for subject in SUBJECTS for each in texts_about(subject, 60)]
    tokenizer = train_tokenizer(words, vocab_size=400, prefix=folder / "small").path
    build = ["data", "build", "--input", str(folder / "web.jsonl"), "--tokenizer", str(tokenizer)]
    output = ["--output", str(folder / "shards"), "--valid-fraction", "0", "--workers", "1"]
    assert main([*build, *output]) == 0
    return folder


@pytest.fixture(scope="module")
def density(folder) -> Path:
    """The shards, scored."""
    command = ["data", "score", str(folder / "shards"), "--scorer", "density"]
    assert main([*command, "--embedder", str(folder / "clusters"), "--workers", "1"]) == 0
    return folder / "shards"


def test_the_rarest_document_has_the_highest_density_score(density, folder, capsys):
    scores = scores_of(density / "web", "density")
    assert len(scores) == 31
    (rarest,) = np.flatnonzero(np.array(scores) == max(scores)).tolist()
    capsys.readouterr()
    inspect = ["data", "inspect", str(density / "web"), "--decode", str(rarest)]
    assert main([*inspect, "--tokenizer", str(folder / "small.model")]) == 0
    assert "return" in capsys.readouterr().out


def test_scored_again_there_is_nothing_to_do(density, folder, capsys):
    command = ["data", "score", str(density), "--scorer", "density"]
    assert main([*command, "--embedder", str(folder / "clusters"), "--workers", "1"]) == 0
    assert "have the scores density already" in capsys.readouterr().out


def test_selected_shards_are_summarized_and_sound(density, tmp_path, capsys):
    command = ["data", "select", str(density), str(tmp_path / "kept"), "--scores", "density"]
    assert main([*command, "--keep", "0.4", "--temperature", "1", "--seed", "3"]) == 0
    assert "web" in capsys.readouterr().out
    assert main(["data", "verify", str(tmp_path / "kept"), "--workers", "1"]) == 0
    assert len(scores_of(tmp_path / "kept" / "web", "density")) in range(11, 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiers", "2", "--seed", "1"], "--seed: expected --keep beside it, found 1"),
        (["--tiers", "2", "--part", "lowest"], "--part: expected --keep beside it, found lowest"),
        (["--keep", "0.5", "--seed", "1"], "--seed: expected --temperature beside it, found 1"),
        (["--keep", "2"], "keep: expected 0 < SHARE <= 1, found 2.0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    density, tmp_path, capsys, arguments, message
):
    command = ["data", "select", str(density), str(tmp_path / "kept"), "--scores", "density"]
    assert main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err
