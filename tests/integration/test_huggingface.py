"""The examples for Hugging Face's libraries: they run as they stand."""

import json
import re
from pathlib import Path

import pytest

from tests.support.huggingface import EOD, train_byte_level
from tests.support.jobs import Program, on_ranks, run_job
from tests.support.ranks import REPOSITORY
from tests.support.shards import UNEQUAL_LENGTHS, write_domain, write_sets

EXAMPLES = REPOSITORY / "docs/examples"
STEPS, SAVED = 12, 7


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data") / "shards", num_domains=3)


def example(name: str, shards: Path, *arguments: str) -> Program:
    return on_ranks(
        f"docs.examples.{name}",
        *("--domains", str(shards / "domains"), "--specific", str(shards / "specific")),
        *("--sequence-length", "8", *arguments),
    )


def printed_weights(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("d0: ", "d1: ", "d2: "))]


def test_the_trainer_and_a_loop_of_accelerate_give_the_same_mixture(
    shards: Path, tmp_path: Path
) -> None:
    """The Trainer's in one run, the loop's in two: the second continues from a checkpoint."""
    in_trainer = ("--deepspeed-config", str(EXAMPLES / "hf_trainer.json"))
    in_loop = ("--deepspeed-config", str(EXAMPLES / "plain_deepspeed.json"))

    whole = run_job(example("hf_trainer", shards, *in_trainer, "--steps", str(STEPS)), tmp_path)
    parts = [
        run_job(example("accelerate_loop", shards, *in_loop, "--steps", str(steps)), tmp_path)
        for steps in (SAVED, STEPS)
    ]

    for job in (whole, *parts):
        assert job.code == 0, job.text
        assert len(printed_weights(job.text)) == 3
    assert "'mixture/alignments/d0': " in whole.text
    assert printed_weights(parts[0].text) != printed_weights(parts[1].text)
    assert printed_weights(parts[1].text) == printed_weights(whole.text)


def test_the_sft_trainer_trains_on_dialogues(shards: Path, tmp_path: Path) -> None:
    for seed in range(3):
        folder = tmp_path / "dialogues" / f"d{seed}"
        write_domain(folder, seed=seed, lengths=UNEQUAL_LENGTHS, chat=True)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    train_byte_level(tokenizer / "tokenizer.json")
    special = {"pad_token": EOD, "eos_token": EOD}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(special))

    job = run_job(
        on_ranks(
            "docs.examples.trl_sft",
            *("--domains", str(tmp_path / "dialogues"), "--specific", str(shards / "chat")),
            *("--tokenizer", str(tokenizer), "--sequence-length", "8", "--steps", "6"),
            *("--deepspeed-config", str(EXAMPLES / "hf_trainer.json")),
        ),
        tmp_path,
    )

    assert job.code == 0, job.text
    assert "'mixture/alignments/d0': " in job.text
    weights = [float(line.split()[1]) for line in printed_weights(job.text)]
    assert len(set(weights)) == 3  # the mixture did move
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)
    assert (tmp_path / "runs/sft/checkpoint-6/mixture.pt").exists()


def test_the_documentation_shows_what_the_examples_run() -> None:
    page = (REPOSITORY / "docs/huggingface.md").read_text()
    examples = "".join(path.read_text() for path in sorted(EXAMPLES.glob("*.py")))

    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)

    assert len(blocks) >= 2
    for block in blocks:
        assert _without_layout(block) in _without_layout(examples), block


def _without_layout(code: str) -> str:
    return re.sub(r",\)", ")", re.sub(r"\s+", "", code))
