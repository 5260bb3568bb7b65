import io
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch

from megadga.probes.weights_only import WeightsOnlyEngine, weights_only_loading


class Trap:
    """Runs its author's code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


class LoadingEngine:
    """Loads as DeepSpeed does: everything that is in a file."""

    def __init__(self, file):
        self.file = file

    def load_checkpoint(self, load_dir, tag, *, load_lr_scheduler_states):
        assert load_lr_scheduler_states
        return f"{load_dir}/{tag}", torch.load(self.file, weights_only=False)


def test_a_trap_is_refused_before_it_is_sprung_and_is_named(tmp_path):
    file = saved({"module": torch.ones(2), "more": Trap(tmp_path / "sprung")})

    with pytest.raises(pickle.UnpicklingError, match=r"open, which is no tensor"):
        WeightsOnlyEngine(LoadingEngine(file)).load_checkpoint("folder", "tag")

    assert not (tmp_path / "sprung").exists()


def test_tensors_numbers_arrays_and_generators_states_are_read():
    value: dict[str, Any] = {
        "tensor": torch.arange(3),
        "array": np.arange(3.0),
        "number": np.float64(0.5),
        "python": random.Random(1).getstate(),
        "numpy": np.random.default_rng(1).bit_generator.state,
        "plain": [1, "two", None, (3.0, b"four")],
    }

    _, found = WeightsOnlyEngine(LoadingEngine(saved(value))).load_checkpoint("folder", "tag")

    assert (found["array"] == value["array"]).all()
    assert torch.equal(found["tensor"], value["tensor"])
    assert {k: found[k] for k in ("number", "python", "numpy", "plain")} == {
        k: value[k] for k in ("number", "python", "numpy", "plain")
    }


def test_afterwards_others_load_what_they_like(monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with weights_only_loading():
        pass

    assert torch.load(saved({"set": random.Random}), weights_only=False)["set"] is random.Random
