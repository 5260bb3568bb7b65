"""Every run and every DeepSpeed file that is shipped can be loaded."""

import re
import shutil
from typing import get_args

import pytest

from megadga.commands.init import EXAMPLES
from megadga.config.consistency import find_inconsistencies
from megadga.config.deepspeed import deepspeed_settings
from megadga.config.llama_shapes import PRESETS
from megadga.config.loading import load_config
from megadga.config.models import HuggingFaceModel, PresetName
from megadga.config.sections import TrainingSection
from megadga.config.yaml_source import read_file
from tests.support.ranks import REPOSITORY


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_run_loads_and_has_settings_for_one_rank(path):
    assert deepspeed_settings(load_config(path), 1)


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "deepspeed").glob("*.json")), ids=lambda path: path.name
)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_shipped_deepspeed_file_fits_any_run(path, precision):
    training = TrainingSection(
        steps=10_000, global_batch_size=24, micro_batch_size=3, precision=precision
    )
    assert list(find_inconsistencies(read_file(path).values, training)) == []


def test_the_run_in_the_readme_has_six_lines_and_loads(tmp_path):
    readme = (REPOSITORY / "README.md").read_text()
    (run,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "run.yaml").write_text(run)
    shutil.copytree(EXAMPLES / "deepspeed", tmp_path / "deepspeed")

    model = load_config(tmp_path / "run.yaml").model

    assert len(run.splitlines()) == 6
    assert isinstance(model, HuggingFaceModel)
    assert model.path == "Qwen/Qwen3-0.6B-Base"


def test_the_model_presets_are_the_ones_that_exist():
    assert set(get_args(PresetName)) == PRESETS.keys()
