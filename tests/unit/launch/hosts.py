"""Folders and values that shells take apart, and a request that has them."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from megadga.launch.hosts import Host, LaunchContext
from megadga.launch.options import LaunchRequest

HOSTILE = "a b$HOME`id`'q'\"d\"\\%n;&*"
PYTHON = "/env/bin/python"
CONFIG = Path(f"{HOSTILE}.yaml")
OVERRIDES = (f"output={HOSTILE}", "seed=-1")
TRAIN = (
    *(PYTHON, "-u", "-m", "megadga.cli", "train", str(CONFIG)),
    *(f"--set={override}" for override in OVERRIDES),
)
HOSTS = (Host("node-a", 2), Host("node-b", 2))
FOLDER = Path("/work") / HOSTILE
OUTPUT = Path("/out") / HOSTILE
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "GLOO_X": HOSTILE,
    "HF_TOKEN": "hush",
    "NCCL_X": "1",
    "PYTHONPATH": f"/code/{HOSTILE}",
    "HOME": "/root",
}
PLACE = LaunchContext(ENVIRONMENT, FOLDER, OUTPUT, "launch-1", 20_001)
REQUEST = LaunchRequest(
    CONFIG, OVERRIDES, nodes=2, accelerators_per_node=2, hostfile=Path("hosts")
)
TOLD = {
    "GLOO_X": HOSTILE,
    "NCCL_X": "1",
    "PATH": "/usr/bin",
    "PYTHONPATH": f"/code/{HOSTILE}",
    "MEGADGA_RANKS": "4",
    "MEGADGA_STOP_FILE": f"{OUTPUT}/.stop-launch-1",
}


def request(**values: Any) -> LaunchRequest:
    """What a user asks for, with some of it changed."""
    return replace(REQUEST, **values)


def echoed(script: str) -> list[str]:
    """What a shell makes of the words of a command line."""
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {script}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]
