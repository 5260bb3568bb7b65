"""Checkpoints that are collected now and written later have the bits of now."""

from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_sets

KINDS = ("0 fp32", "1 bf16", "2 fp32", "3-released bf16")  # the last patches torch for good


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``workers.saving`` found on two ranks, by ZeRO stage and precision."""
    folder = tmp_path_factory.mktemp("saving")
    sets = write_sets(folder / "sets", num_domains=3)
    arguments = (str(sets), str(folder / "checkpoints"), *KINDS)
    return run_ranks("tests.distributed.workers.saving", 2, folder, *arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_after_another_step_has_the_bits_of_the_checkpoints_step(
    saved: dict[str, Any], kind: str
) -> None:
    found = saved[kind]

    assert found["trained"][0] != found["trained"][1]
    assert found["differences"]["later"] == 0
    assert found["differences"]["too_late"] > 0  # without copies it would have others
    scripts = [] if kind.startswith("0") else ["zero_to_fp32.py", "zero_to_torch.py"]
    assert found["scripts"] == scripts


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_exactly_from_what_was_written_later(
    saved: dict[str, Any], kind: str
) -> None:
    assert saved[kind]["resumed"] == saved[kind]["trained"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_that_a_checkpoint_needs_is_known_before(
    saved: dict[str, Any], kind: str
) -> None:
    estimated, written = saved[kind]["sizes"]

    assert 0 < estimated <= written < estimated + 120_000  # what is not tensors
