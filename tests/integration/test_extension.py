"""A rule from a package that is installed for real: checked, trained with, resumed."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.jobs import alone, run_job
from tests.support.ranks import REPOSITORY
from tests.support.runs import RUN, write_run
from tests.support.shards import write_sets

EXAMPLE = REPOSITORY / "docs" / "examples" / "megadga_annealed"
MIXING = """\
  type: annealed
  interval: 1
  initial: {d0: 0.8, d1: 0.2}
  final: {d0: 0.2, d1: 0.8}
  until: 0.5
"""
OF_DGA = "  type: dga\n  interval: 4\n  step_size: 0.5\n"
FOUR_STEPS = "--set=training.steps=4"


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder with the example installed in it."""
    root = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, root / "source")  # building writes into it
    target = root / "site-packages"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    installed = run_job([sys.executable, "-m", "pip", "install", *offline, str(source)], root)
    assert installed.code == 0, installed.text
    return target


@pytest.fixture
def folder(tmp_path) -> Path:
    write_run(write_sets(tmp_path, num_domains=2), RUN.replace(OF_DGA, MIXING))
    return tmp_path


def megadga(folder: Path, packages: Path, *arguments: str):
    return run_job(alone("megadga.cli", *arguments), folder, packages=packages)


def test_the_example_is_described_checked_and_refused_like_a_built_in_rule(folder, packages):
    described = megadga(folder, packages, "describe", "run.yaml")
    assert described.code == 0, described.text
    assert "mixing.until = 0.5\n    Share of the run's steps after which" in described.text

    checked = megadga(folder, packages, "check", "run.yaml")
    assert checked.code == 0, checked.text
    assert "none: the weights go by the step, every 1 step" in checked.text

    refused = megadga(folder, packages, "check", "run.yaml", "--set", "mixing.untill=1")
    assert (refused.code, refused.text) == (
        2,
        "override 1: mixing.untill: expected a known key, found 'untill'; did you mean 'until'?\n",
    )
    lost = megadga(folder, packages, "check", "run.yaml", "--set=mixing.final={d0: 0, d1: 1}")
    assert (lost.code, lost.text) == (
        2,
        (
            "run.yaml:7: mixing: expected options that megadga-annealed 0.1.0 accepts, found "
            "final: expected weights above 0 exactly where those of initial are\n"
        ),
    )


def test_training_moves_the_weights_as_the_example_says_and_resumes(folder, packages):
    short = megadga(
        folder, packages, "train", "run.yaml", FOUR_STEPS, "--set=checkpoint.interval=1"
    )
    assert short.code == 0, short.text
    metrics = folder / "out" / "metrics.jsonl"
    updates = [json.loads(line) for line in metrics.read_text().splitlines()]
    updates = [record for record in updates if record["type"] == "update"]

    # Half of 4 steps: s is 1/2 after the first, where 0.8^s 0.2^(1-s) is the same for both.
    assert [update["step"] for update in updates] == [1, 2]  # then the weights stay
    for update, weight in zip(updates, (0.5, 0.2), strict=True):
        np.testing.assert_allclose(update["averaged_weights"]["d0"], weight, rtol=1e-12)

    (folder / "out" / "DONE").unlink()  # as if it had died at its very end
    again = megadga(folder, packages, "train", "run.yaml", FOUR_STEPS)
    assert again.code == 0, again.text
    assert "continues after step 4" in again.text
    (information,) = packages.glob("megadga_annealed-*.dist-info")
    metadata = (information / "METADATA").read_text()
    (information / "METADATA").write_text(metadata.replace("Version: 0.1.0", "Version: 0.2.0"))
    (folder / "out" / "DONE").unlink()
    other = megadga(folder, packages, "train", "run.yaml", FOUR_STEPS)
    (information / "METADATA").write_text(metadata)
    assert other.code == 2
    assert other.text.endswith(
        "belongs to another run: extension: expected 'megadga-annealed 0.1.0', "
        "found 'megadga-annealed 0.2.0'; to go on with it: --allow extension\n"
    )
