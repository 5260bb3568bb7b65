"""Which tests of faults run here."""

import os
from pathlib import Path

import pytest

ALL = "MEGADGA_TEST_FAULTS"
"""Variable that asks for the thorough tests too; ``make test-faults`` sets it."""
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ALL not in os.environ:
        skip = pytest.mark.skip(reason="takes long: make test-faults runs it")
        for item in items:
            if item.path.parent == _HERE and "thorough" in item.keywords:
                item.add_marker(skip)
