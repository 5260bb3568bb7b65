"""What libraries say at the start is heard once, and errors from every rank."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, os, sys, warnings
from megadga.launch.quiet import prints_of_first_rank, quieten

rank = int(sys.argv[1])
quieten(os.environ, rank=rank)
logger = logging.getLogger("DeepSpeed")
logger.addHandler(logging.StreamHandler(sys.stderr))
logger.setLevel(logging.INFO)
for level in (logging.INFO, logging.WARNING, logging.ERROR):
    logger.log(level, logging.getLevelName(level))
for kind in (FutureWarning, UserWarning):
    warnings.warn_explicit(kind.__name__, kind, "x.py", 1, module="torch.distributed.c10d")
warnings.warn_explicit("of ours", UserWarning, "y.py", 1, module="megadga.train")
with prints_of_first_rank(os.environ, rank=rank):
    print("printed")
print("after")
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
        line.rpartition(": ")[2] for line in done.stderr.splitlines() if not line.startswith("  ")
    ]


def test_the_first_rank_tells_what_is_not_a_deprecation():
    printed, told = said(0)
    assert printed == ["printed", "after"]
    assert told == ["INFO", "WARNING", "ERROR", "UserWarning", "of ours"]


def test_another_rank_tells_errors_and_what_is_ours():
    printed, told = said(1)
    assert printed == ["after"]
    assert told == ["ERROR", "of ours"]


@pytest.mark.parametrize("rank", [0, 1])
def test_everything_is_reported_if_it_is_wanted(rank):
    printed, told = said(rank, MEGADGA_VERBOSE="1")
    assert printed == ["printed", "after"]
    expected = ["INFO", "WARNING", "ERROR", "FutureWarning", "UserWarning", "of ours"]
    assert told == expected
