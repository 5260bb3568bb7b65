import signal
import subprocess
from pathlib import Path

from megadga.launch.hosts import Node, rank_commands
from megadga.launch.supervision import terminate
from tests.unit.launch.hosts import FOLDER, request

RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def test_every_rank_of_a_machine_is_reported_its_place():
    node = Node(rank=1, nodes=2, master_address="pod-0", master_port=4711)

    commands = rank_commands(
        request().train(), node, ranks=2, environment={"A": "b"}, folder=FOLDER
    )

    assert [tuple(c.environment[name] for name in RANK) for c in commands] == [
        ("2", "0", "4", "2", "pod-0", "4711"),
        ("3", "1", "4", "2", "pod-0", "4711"),
    ]
    assert all(c.environment["MEGADGA_RANKS"] == "4" for c in commands)
    assert all(c.environment["A"] == "b" for c in commands)
    assert {c.arguments for c in commands} == {request().train()}
    assert {c.folder for c in commands} == {FOLDER}


def test_ranks_are_asked_to_stop_by_a_signal():
    sleeper = subprocess.Popen(["sleep", "60"], cwd=Path("/"))
    terminate([sleeper.pid])
    assert sleeper.wait(timeout=30) == -signal.SIGTERM
