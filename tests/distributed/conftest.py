"""Measurements that several files look at, made once on each number of ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    reports: dict[tuple[int, str], dict[str, Any]] = {}
    worker = "tests.distributed.workers.alignment"

    def report(world_size: int, family: str) -> dict[str, Any]:
        key = (world_size, family)
        if key not in reports:
            output = tmp_path_factory.mktemp("alignment")
            reports[key] = run_ranks(
                worker, world_size, output, str(folder), family, timeout_s=550
            )
        return reports[key]

    return report


TwoRanks = Callable[[str], dict[str, Any]]
"""From a ZeRO stage to what ``workers.among_domains`` found on two ranks."""


@pytest.fixture(scope="session")
def two_ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """See ``TwoRanks``; a job runs when it is first asked for."""
    reports: dict[str, dict[str, Any]] = {}
    worker = "tests.distributed.workers.among_domains"

    def report(kind: str) -> dict[str, Any]:
        if kind not in reports:
            output = tmp_path_factory.mktemp("two_ranks")
            reports[kind] = run_ranks(worker, 2, output, str(folder), kind, timeout_s=550)
        return reports[kind]

    return report
