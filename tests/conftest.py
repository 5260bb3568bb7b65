"""Which tests share a process when several processes run them (``pytest -n``).

A file's tests share one, as they look at what a fixture of the module has made once. Files whose
jobs run for minutes begin first, so that the short ones fill up the end.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SEPARATE = ("test_training.py", "test_stopping.py", "test_build_shards.py")
"""Files whose tests run for long and share little: each test goes where there is time."""
LONGEST_FIRST = ("distributed", "integration", "cluster", "unit")
_HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    """Group tests before pytest-xdist reads the groups, which it does as soon as all are known."""
    if item.path.name not in SEPARATE:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST_FIRST.index(_kind(item)))


def _kind(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).parts[0]


def _group(item: pytest.Item) -> str:
    """Return what a test shares with others: a job's measurements, hosts, or else its file."""
    if _kind(item) == "cluster":
        return "cluster"  # hosts have names and addresses
    if "measured" in getattr(item, "fixturenames", ()):
        # Of a number of ranks and a family of ZeRO stages, which are parameters of the test.
        callspec = getattr(item, "callspec", None)
        return f"measured {sorted(map(str, _values(callspec.params))) if callspec else ''}"
    return item.path.relative_to(_HERE).as_posix()


def _values(params: Mapping[str, object]) -> Iterator[object]:
    for value in params.values():
        yield from value if isinstance(value, tuple) else (value,)
