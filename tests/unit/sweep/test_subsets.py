from pathlib import Path

import numpy as np
import pytest

from megadga.data.folder import open_domains
from megadga.errors import ConfigError
from megadga.sweep.config import load_sweep
from megadga.sweep.planning import Sweep, plan_sweep
from tests.support.runs import write_run
from tests.support.shards import SEQUENCE_LENGTH, TOKENIZER, open_sets, write_sets

# 50 steps of 8 sequences of 8 tokens: 3,200 tokens, a quarter of the target.
SWEEP = """\
run: run.yaml
set: [training.steps=50]
output: swept
mixtures: {type: listed, weights: [uniform]}
target_tokens: 12800
match_repetition: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def plan(folder: Path, text: str = SWEEP) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return plan_sweep(load_sweep(path))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_subset_is_the_first_documents_of_its_domain_and_all_of_validation(folder, split):
    sweep = plan(folder)
    sweep.write(lambda _: None)
    written = sweep.runs[0].config.data.domains
    assert isinstance(written, Path)
    found = open_domains(written, split=split, sequence_length=SEQUENCE_LENGTH)
    whole, _ = open_sets(folder, split=split)
    for subset, domain in zip(found, whole, strict=True):
        assert subset.name == domain.name
        size = subset.num_tokens
        tokens = domain.tokens(0, size)
        assert (subset.tokens(0, size) == tokens).all()
        assert tokens[-1] == TOKENIZER.eod
        assert subset.num_documents == np.count_nonzero(tokens == TOKENIZER.eod)
        if split == "valid":
            assert size == domain.num_tokens
        else:  # a quarter, and at most one document (30 tokens) more
            assert 0 <= size - domain.num_tokens / 4 <= 30


def test_what_is_written_is_kept(folder):
    lines: list[str] = []
    sweep = plan(folder)
    sweep.write(lines.append)
    sweep.write(lines.append)
    (line,) = lines
    assert line.endswith("writing 25.000% of the tokens of 2 domains")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "target_tokens: 12800\n",
            "",
            "sweep.yaml:5: match_repetition: expected target_tokens beside it, found none",
        ),
        (
            "12800",
            "3200",
            (
                "sweep.yaml:5: target_tokens: expected more than the 3,200 tokens of a run of the "
                "sweep, found 3,200"
            ),
        ),
    ],
)
def test_a_target_is_longer_than_the_runs(folder, before, after, message):
    with pytest.raises(ConfigError) as caught:
        plan(folder, SWEEP.replace(before, after))
    assert str(caught.value).replace(f"{folder}/", "") == message


def test_less_than_a_window_of_a_domain_is_refused(folder):
    sweep = plan(
        folder, SWEEP.replace("12800", "1000000").replace("match", "max_epochs: null\nmatch")
    )
    with pytest.raises(ConfigError, match="match_repetition: expected at least 9 tokens of each"):
        sweep.write(lambda _: None)
