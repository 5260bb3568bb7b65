"""Measurements that several files look at, made once on each number of ranks."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.once import once
from tests.support.ranks import run_ranks
from tests.support.shards import write_sets

Measured = Callable[[int, str], dict[str, Any]]
"""From a number of ranks and a family of ZeRO stages to what ``workers.alignment`` found."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains and specific sets, as ``write_sets`` writes them."""
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)


@pytest.fixture(scope="session")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """See ``Measured``; a job runs when it is first asked for."""
    worker = "tests.distributed.workers.alignment"

    @cache
    def report(world_size: int, family: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("alignment")

        def run() -> Any:
            return run_ranks(worker, world_size, output, str(folder), family, timeout_s=550)

        return once(tmp_path_factory, f"alignment-{world_size}-{family}", run)

    return report


TwoRanks = Callable[[str], dict[str, Any]]
"""From a ZeRO stage to what ``workers.among_domains`` found on two ranks."""


@pytest.fixture(scope="session")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """See ``TwoRanks``; a job runs when it is first asked for."""
    worker = "tests.distributed.workers.among_domains"

    @cache
    def report(kind: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("two_ranks")

        def run() -> Any:
            return run_ranks(worker, 2, output, str(folder), kind, timeout_s=550)

        return once(tmp_path_factory, f"two-ranks-{kind}", run)

    return report
