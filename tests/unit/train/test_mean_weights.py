"""The file that a static run takes its weights from."""

from megadga.config.loading import load_config
from megadga.train.metrics import MeanWeightsFile
from tests.support.runs import write_run


def updated(weights):
    return {"update": {"weights": {"d0": 1.0}, "mean_weights": weights}}


def test_the_mean_is_written_where_a_checkpoint_ends_and_at_the_last_step(tmp_path):
    path = tmp_path / "mean_weights.yaml"
    file = MeanWeightsFile(path, due=lambda step: step == 2, last_step=4)

    file.log(1, updated({"d0": 0.5, "d1": 0.5}))
    assert not path.exists()
    file.log(2, {"train": {}})
    assert path.read_text() == "{type: static, weights: {d0: 0.5, d1: 0.5}}\n"
    file.log(3, updated({"d0": 0.75, "d1": 0.25}))
    assert "0.75" not in path.read_text()
    file.log(4, {"train": {}})
    assert path.read_text() == "{type: static, weights: {d0: 0.75, d1: 0.25}}\n"


def test_a_rule_that_keeps_no_mean_has_no_file(tmp_path):
    file = MeanWeightsFile(tmp_path / "mean_weights.yaml", due=lambda _: True, last_step=1)

    file.log(1, {"update": {"weights": {"d0": 1.0}}})

    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_mixture_of_a_static_run(tmp_path):
    path = tmp_path / "mean_weights.yaml"
    weights = {"1e4": 1 / 3, "no: way": 2 / 3}
    MeanWeightsFile(path, due=lambda _: True, last_step=1).log(1, updated(weights))

    config = load_config(write_run(tmp_path), [f"mixing={path.read_text()}"])

    assert config.mixing.model_dump() == {"type": "static", "weights": weights}
