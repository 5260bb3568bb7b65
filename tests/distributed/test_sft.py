"""Training in TRL's ``SFTTrainer``: on dialogues, with the loss on the trained tokens alone."""

from functools import cache
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import UNEQUAL_LENGTHS, write_domain, write_sets

KINDS = ("2", "3-released")
TOLERANCE = 1e-6  # of |g_i||v|: float32's own error over a forward and backward pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From a ZeRO stage to what ``workers.sft`` found on two ranks."""
    sets = write_sets(tmp_path_factory.mktemp("sets"), num_domains=1)
    for seed in range(3):
        folder = sets / "dialogues" / f"d{seed}"
        write_domain(folder, seed=seed, lengths=UNEQUAL_LENGTHS, chat=True)

    @cache
    def report(kind: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("sft")
        return run_ranks("tests.distributed.workers.sft", 2, output, str(sets), kind)

    return report


@pytest.mark.parametrize("kind", KINDS)
def test_updates_leave_no_trace_in_the_sft_trainer(trained: Any, kind: str) -> None:
    static, frozen = trained(kind)["static"], trained(kind)["frozen"]

    assert len(set(static["losses"])) == 4  # training did move
    assert frozen["losses"] == static["losses"]
    assert frozen["parameters"] == static["parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_alignments_are_over_the_trained_tokens_alone(trained: Any, kind: str) -> None:
    assert trained(kind)["frozen"]["error"] < TOLERANCE


def test_labels_are_the_trained_tokens(trained: Any) -> None:
    assert trained("2")["labels"]


def test_what_would_not_be_exact_is_refused(trained: Any) -> None:
    refusals = trained("2")["refusals"]

    assert refusals["in flight"].startswith("probe: expected Trainer's own compute_loss")
    assert "found those of SFTTrainer" in refusals["in flight"]
    assert refusals["padding_free"].startswith("TrainingArguments.padding_free: expected False")
