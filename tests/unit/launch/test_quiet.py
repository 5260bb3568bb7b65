"""What libraries say at the start is heard once, and errors from every rank."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, os, sys, warnings
from megadga.launch.quiet import library_prints, quieten

rank = int(sys.argv[1])
quieten(os.environ, rank=rank)
logger = logging.getLogger("DeepSpeed")
logger.addHandler(logging.StreamHandler(sys.stderr))
logger.setLevel(logging.INFO)
for level in (logging.INFO, logging.WARNING, logging.ERROR):
    logger.log(level, logging.getLevelName(level))
logger.warning("Setting accelerator to CPU. If you have GPU ...")
for kind in (FutureWarning, UserWarning):
    warnings.warn_explicit(kind.__name__, kind, "x.py", 1, module="torch.distributed.c10d")
warnings.warn_explicit("deprecated", FutureWarning, "z.py", 1, module="transformers.generic")
warnings.warn_explicit("of ours", UserWarning, "y.py", 1, module="megadga.train")
with library_prints(os.environ, rank=rank):
    print("DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully")
    print("printed")
print("after", os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"))
"""


def said(rank: int, **variables: str) -> tuple[list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(rank)],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), [
        line.rpartition(": ")[2].split(".")[0]
        for line in done.stderr.splitlines()
        if not line.startswith("  ")
    ]


def test_the_first_rank_tells_what_its_user_can_change():
    printed, told = said(0)
    assert printed == ["after", "1"]  # no terminal: no progress bars
    assert told == ["INFO", "WARNING", "ERROR", "UserWarning", "of ours", "printed"]


def test_another_rank_tells_errors_and_what_is_ours():
    printed, told = said(1)
    assert printed == ["after", "1"]  # no terminal: no progress bars
    assert told == ["ERROR", "of ours"]


@pytest.mark.parametrize("rank", [0, 1])
def test_everything_is_reported_if_it_is_wanted(rank):
    printed, told = said(rank, MEGADGA_VERBOSE="1")
    assert printed[0] == "DeepSpeed"
    assert printed[-3:] == ["printed", "after", "None"]
    levels = ["INFO", "WARNING", "ERROR", "Setting accelerator to CPU"]
    assert told == [*levels, "FutureWarning", "UserWarning", "deprecated", "of ours"]
