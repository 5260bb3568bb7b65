"""Training in the ``Trainer`` of ``transformers``: what the plugin plans, and nothing else."""

from functools import cache
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_sets

KINDS = ("2", "3-released")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From a ZeRO stage to what ``workers.trainer`` found on two ranks."""
    sets = write_sets(tmp_path_factory.mktemp("sets"), num_domains=3)

    @cache
    def report(kind: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("trainer")
        return run_ranks("tests.distributed.workers.trainer", 2, output, str(sets), kind)

    return report


@pytest.mark.parametrize("kind", KINDS)
def test_updates_leave_no_trace_in_the_trainer(trained: Any, kind: str) -> None:
    static, frozen = trained(kind)["static"], trained(kind)["frozen"]

    assert len(set(static["losses"])) == 6  # training did move
    assert static["logged_at"] == []
    assert frozen["logged_at"] == [2, 4, 6]
    assert frozen["losses"] == static["losses"]
    assert frozen["parameters"] == static["parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_trains_the_same_bits_as_a_loop_by_hand(trained: Any, kind: str) -> None:
    in_trainer, by_hand = trained(kind)["moving"], trained(kind)["by hand"]

    assert in_trainer["weights"] != [1 / 3] * 3  # the mixture did move
    assert in_trainer["updates"] == by_hand["updates"]
    assert in_trainer["weights"] == by_hand["weights"]
    assert in_trainer["parameters"] == by_hand["parameters"]
    assert in_trainer["parameters"] != trained(kind)["static"]["parameters"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_exactly_and_evaluation_does_not_disturb_it(trained: Any, kind: str) -> None:
    whole, resumed = trained(kind)["moving"], trained(kind)["resumed"]

    assert len(resumed["evaluated"]) == 3  # after the checkpoint of step 3
    for name in ("losses", "updates", "weights", "parameters"):
        assert resumed[name] == whole[name], name


def test_an_evaluation_reports_the_domains_loss(trained: Any) -> None:
    assert trained("2")["moving"]["general"] is None
    assert trained("2")["resumed"]["general"] == trained("2")["resumed"]["evaluated"][-1]


@pytest.fixture(scope="module")
def refusals(trained: Any) -> dict[str, str]:
    return trained("2")["refusals"]


def test_arguments_that_contradict_the_mixture_are_refused_together_and_by_name(
    refusals: dict[str, str],
) -> None:
    lines = refusals["arguments"].split("\n")

    assert [line.partition(":")[0].removeprefix("TrainingArguments.") for line in lines] == [
        "enable_jit_checkpoint",
        "logging_strategy",
        "train_sampling_strategy",
        "accelerator_config.dispatch_batches",
        "accelerator_config.split_batches",
        "max_steps",
        "dataloader_num_workers",
        "label_smoothing_factor",
    ]
    assert "expected 'steps' or 'no', found 'epoch'" in lines[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("deepspeed", "Trainer: expected one with DeepSpeed"),
        ("dataset", "expected a MixtureDataset as its train_dataset, found SequenceDataset"),
        ("callback", "expected trainer.add_callback(MixtureCallback(trainer, ...)) before"),
        ("losses", "scheduler: expected one that needs no training losses"),
        ("in flight", "TrainingArguments.use_liger_kernel: expected False in flight"),
        ("compute_loss_func", "Trainer.compute_loss_func: expected None, found one"),
        ("compute_loss_func and loss", "probe: expected the mean loss that the model returns"),
        ("another loss", "loss: expected the Trainer's loss to be the mean cross-entropy"),
        ("collator", "Trainer.data_collator: expected 'input_ids' as the training set has it"),
        ("resume elsewhere", "mixture.pt: expected the mixture's state, found none"),
        ("resume another", "expected the checkpoint that the Trainer resumes from, found one"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    refusals: dict[str, str], name: str, told: str
) -> None:
    assert told in refusals[name]
