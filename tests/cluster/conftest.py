"""Which tests of clusters run here, and hosts for them."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts
from tests.cluster.packages import PDSH, why_not

ALL = "MEGADGA_TEST_CLUSTER"
"""Variable that asks for the thorough tests too; ``make test-cluster`` sets it."""
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ALL not in os.environ:
        skip = pytest.mark.skip(reason="takes long: make test-cluster runs it")
        for item in items:
            if item.path.parent == _HERE and "thorough" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def torn_down_when_terminated() -> Generator[None]:
    """Have SIGTERM end the tests as Ctrl-C does: hosts outlive a process that just dies."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def pair() -> Generator[tuple[Host, Host]]:
    """Two hosts, a test's own."""
    if reason := why_not(PDSH):
        pytest.skip(reason)
    with hosts(2) as (first, second):
        yield first, second
