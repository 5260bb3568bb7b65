import pytest

from megadga.launch.local import main_of_node as main
from tests.support.runs import write_run

PLACE = ["--node-rank=1", "--master-address=run-0.run", "--master-port=29500", "--nodes=2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)


def test_a_pod_runs_the_ranks_of_its_node(capsys):
    assert main([*PLACE, "--accelerators-per-node=2", "--dry-run", "run.yaml"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    for line, rank in ((first, 2), (second, 3)):
        assert f"RANK={rank} LOCAL_RANK={rank - 2} WORLD_SIZE=4" in line
        assert "MASTER_ADDR=run-0.run MASTER_PORT=29500 MEGADGA_RANKS=4" in line
        assert line.endswith("-m megadga.cli train run.yaml")


def test_the_ranks_of_all_nodes_share_the_batch(capsys):
    assert main([*PLACE, "--accelerators-per-node=3", "--dry-run", "run.yaml"]) == 2
    assert "training.micro_batch_size x ranks (2 x 6)" in capsys.readouterr().err
