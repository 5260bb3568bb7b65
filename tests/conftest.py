"""In which order test files run: those whose jobs run for minutes first, the short ones last.

So that processes (``pytest -n --dist loadfile``) end at the same time. Files that look at what
others have measured follow when it is there.
"""

import gc
import os
from pathlib import Path

import pytest

LONGEST_FIRST = ("faults", "distributed", "integration", "cluster", "unit")
FOLLOWING = ("test_low_rank.py", "test_preconditioned.py", "test_foreign.py")
_HERE = Path(__file__).parent

# DeepSpeed decorates functions with torch.compile that no test calls: what that imports takes 3 s
# of each process that tests start. Those of `tests.support.warm` have it imported, and compile.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# Models of tests are tiny, and several processes share the cores: threads of one operation would
# only wait for one another, and spin meanwhile.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is imported for all tests is never garbage. Left among what is looked through, it takes the
# collector 0.5 s each time that it does, in every process.
gc.disable()


FAULTS = "MEGADGA_TEST_FAULTS"
"""Variable that asks for the thorough tests, too; ``make test-faults`` and its like set it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    if FAULTS not in os.environ:
        skip = pytest.mark.skip(reason="takes long: make test-faults or test-scale runs it")
        for item in items:
            if item.path.parent.name != "cluster" and "thorough" in item.keywords:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # Hypothesis, imported to say how it went, looks for what refers to something


def _place(item: pytest.Item) -> int:
    place = LONGEST_FIRST.index(item.path.relative_to(_HERE).parts[0])
    return max(place, 3) if item.path.name in FOLLOWING else place
