"""Shards that the ranks of MPI build on two hosts are those that one process builds."""

import sys
from pathlib import Path

import pytest

from megadga.prepare.training import train_tokenizer
from tests.cluster.environment import shell_environment
from tests.cluster.hosts import Host
from tests.support.texts import made_up_texts, write_lines

BUILD = (sys.executable, "-m", "megadga.cli", "data", "build")
MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.mark.thorough
def test_four_ranks_on_two_hosts_build_the_same_bytes(
    pair: tuple[Host, Host], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(6):
        write_lines(text / f"d{number}.jsonl", made_up_texts(300, seed=number))
    tokenizer = train_tokenizer(made_up_texts(200), vocab_size=400, prefix=tmp_path / "small").path
    build = [*BUILD, "--input", str(text / "*"), "--tokenizer", str(tokenizer)]
    ranks = [str(MPIRUN), "--host", "h1:2,h2:2", "-n", "4"]

    alone = pair[0].run(
        *build, "--output", str(tmp_path / "alone"), "--workers", "1", env=shell_environment()
    )
    together = pair[0].run(
        *ranks, *build, "--output", str(tmp_path / "together"), env=shell_environment()
    )

    assert (alone.code, together.code) == (0, 0), together.text
    assert read_tree(tmp_path / "together") == read_tree(tmp_path / "alone")


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
