"""Whole runs that follow losses: a reference model beside training, and weights of sequences."""

import json
from pathlib import Path
from typing import Any

import pytest

from megadga.config.loading import load_config
from tests.support.checkpoints import differing
from tests.support.jobs import alone, on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_sets

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data: {domains: shards/domains}
mixing: {type: static, weights: uniform}
training: {steps: 4, global_batch_size: 8, micro_batch_size: 2}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 3}
"""
REFERENCE = ("output=reference", "training.steps=2")
# Losses of the last are means over the trained tokens of dialogues.
DIALOGUES = (
    "data.domains=[{name: d0, path: shards/domains/d0}, {name: d1, path: shards/domains/d1}, "
    "{name: d2, path: shards/chat, packing: chat}]"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


@pytest.fixture
def folder(tmp_path: Path, shards: Path) -> Path:
    (tmp_path / "shards").symlink_to(shards)
    write_run(tmp_path, RUN, gradient_clipping=1.0)
    return tmp_path


def train(folder: Path, *overrides: str, ranks: int = 1) -> None:
    arguments = ["megadga.cli", "train", "run.yaml", *(f"--set={each}" for each in overrides)]
    job = run_job(alone(*arguments) if ranks == 1 else on_ranks(*arguments, ranks=ranks), folder)
    assert job.code == 0, job.text


def records(folder: Path, output: str, kind: str = "train") -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / output / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["type"] == kind]


@pytest.mark.parametrize(
    ("stage", "precision", "ranks"),
    [(0, "bf16", 1), (1, "fp32", 1), (2, "fp32", 2), (3, "bf16", 2)],
)
def test_a_run_that_trains_as_its_reference_did_meets_it_at_its_last_step(
    folder, stage, precision, ranks
):
    trained = (f"training.precision={precision}", f"deepspeed.zero_optimization.stage={stage}")
    train(folder, *REFERENCE, *trained, ranks=ranks)
    # Without steps of its own the mixture stays uniform, as that of the reference.
    still = "mixing={type: doremi, reference: reference, step_size: 0.0, smoothing: 0.0}"
    train(folder, still, *trained, ranks=ranks)

    for record in records(folder, "out"):
        own, reference = record["loss_by_domain"], record["reference_loss_by_domain"]
        assert own.keys() == reference.keys()
        # The third step begins with the weights that the reference ended with.
        same = own == pytest.approx(reference, rel=1e-6)
        assert same is (record["step"] == 3), (record["step"], own, reference)


def test_a_stopped_proxy_run_goes_on_with_equal_bits_and_leaves_its_mean(folder):
    train(folder, *REFERENCE)
    doremi = "mixing={type: doremi, reference: reference, interval: 2}"
    train(folder, doremi, DIALOGUES, "output=whole", "training.steps=6")
    # It stops between two updates, with the losses of one step seen.
    train(folder, doremi, DIALOGUES, "training.steps=3")
    train(folder, doremi, DIALOGUES, "training.steps=6")

    for kind in ("train", "update"):
        whole, parts = (
            [
                {**record, "tokens_per_s": None, "seconds": None}
                for record in records(folder, output, kind)
            ]
            for output in ("whole", "out")
        )
        assert whole == parts
    for record in records(folder, "whole"):
        assert record["targets_by_domain"]["d2"] < 8 * record["sequences_by_domain"]["d2"]
        assert record["reference_loss_by_domain"].keys() == record["loss_by_domain"].keys()
    last = "checkpoints/step-00000006"
    assert differing(folder / "whole" / last, folder / "out" / last) == []
    updates = records(folder, "whole", "update")
    assert [update["step"] for update in updates] == [2, 4, 6]
    assert len({json.dumps(update["weights"]) for update in updates}) == 3
    mean = updates[-1]["mean_weights"]
    assert mean == {
        name: pytest.approx(sum(update["weights"][name] for update in updates) / 3)
        for name in ("d0", "d1", "d2")
    }
    line = (folder / "out/mean_weights.yaml").read_text()
    assert line == (folder / "whole/mean_weights.yaml").read_text()
    assert load_config(folder / "run.yaml", [f"mixing={line}"]).mixing.model_dump() == {
        "type": "static",
        "weights": mean,
    }


def test_another_reference_is_another_run(folder):
    train(folder, *REFERENCE)
    doremi = "mixing={type: doremi, reference: reference}"
    train(folder, doremi, "training.steps=1")
    train(folder, "output=reference", "training.steps=3")

    arguments = ["train", "run.yaml", f"--set={doremi}", "--set=training.steps=2"]
    job = run_job(alone("megadga.cli", *arguments), folder)

    assert job.code == 2
    assert "shards.reference.step: expected 2, found 3" in job.text


def test_weighted_steps_are_equal_on_any_number_of_ranks_and_micro_batches(folder):
    reweighted = "training.loss_reweighting={strategy: linupper, temperature: 0.1, warmup: 1}"
    cases = {
        "one": (1, 2, 1),
        "one at once": (1, 8, 2),
        "two": (2, 2, 3),  # all of ZeRO-3's gathering, ahead and in training
        "two at once": (2, 4, 2),
    }
    for name, (ranks, size, stage) in cases.items():
        train(
            folder,
            reweighted,
            f"output='{name}'",
            f"training.micro_batch_size={size}",
            f"deepspeed.zero_optimization.stage={stage}",
            "checkpoint=null",
            ranks=ranks,
        )
    train(folder, "output=plain", "checkpoint=null")

    found = {name: records(folder, name) for name in (*cases, "plain")}
    first = found.pop("one")
    assert [record["effective_sequences"] < 7.9 for record in first] == [False, True, True, True]
    assert first[0]["loss"] == found["plain"][0]["loss"]
    assert first[1]["loss"] == found["plain"][1]["loss"]  # warming up
    assert first[1]["grad_norm"] != pytest.approx(found["plain"][1]["grad_norm"], rel=1e-3)
    del found["plain"]
    for others in found.values():
        for one, other in zip(first, others, strict=True):
            for key in ("loss", "grad_norm", "effective_sequences"):
                assert other[key] == pytest.approx(one[key], rel=1e-4)  # float32 in other orders


@pytest.mark.parametrize("kind", ["domains", "specific"])
def test_doge_moves_the_weights_with_and_without_a_target(folder, kind):
    mixing = f"mixing={{type: doge, interval: 2, step_size: 0.5, target: {kind}}}"
    target = "{target: {path: shards/specific}}" if kind == "specific" else "{}"

    train(folder, mixing, f"data.specific={target}", "deepspeed.zero_optimization.stage=2")

    first, second = records(folder, "out", "update")
    assert first["weights"] != second["weights"]
    assert set(first["gradient_norms"]) == {"d0", "d1", "d2"}
    assert ("mean_gradient_norm" in first) is (kind == "domains")
    assert (folder / "out/mean_weights.yaml").is_file()
