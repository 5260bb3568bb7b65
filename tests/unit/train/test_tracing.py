"""The trainer that writes a trace: what it writes, and that training does not notice."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from megadga.config.loading import load_config
from megadga.config.sections import TraceSection
from megadga.errors import ConfigError, ResumeError, UnsupportedEngineError
from megadga.probes.sequence_gradients import Projection, SequenceGradients
from megadga.run_folder.trace import TracedParameter, TraceHeader, open_trace_file
from megadga.train.appending import AppendedFile
from megadga.train.ranks import StepAllReduce
from megadga.train.tracing import (
    OptimizerRates,
    TracingTrainer,
    begin_file,
    check_space,
    trace_bytes,
)
from megadga.train.trainer import Trainer
from tests.support.left_out import small_transformer
from tests.support.runs import write_run
from tests.unit.train.fakes import FakeEngine, LoneRank, batch

TOKENS = torch.randint(12, (2, 2, 9), generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


class PlainRates:
    """Those of SGD, with weights that decay to a half."""

    def __call__(self, train):
        return np.full(9, train["learning_rate"]), 0.5


def step_batch(step):
    found = batch(TOKENS, domains=[0, 2, 0, 1], rows=[[0, 1], [2, 3]], step=step)
    return replace(found, indices=replace(found.indices, sequences=np.array([[4, 5], [6, 7]])))


def trained(path, *, traced, dimension=None):
    """Train two steps; return the losses, the weights before and after them, and the header."""
    engine = FakeEngine(accumulation=2, rates=(0.1, 0.2, 0.3), module=small_transformer())
    seconds = iter(range(99))
    trainer = Trainer(
        engine,
        ["a", "b", "c"],
        step_sum=StepAllReduce(LoneRank()),
        clock=lambda: float(next(seconds)),
    )
    gradients = SequenceGradients(engine.module, Projection(dimension, seed=0), CPU)
    parameters = tuple(TracedParameter(p.name, p.shape, p.kept) for p in gradients.pieces)
    names = ("a", "b", "c")
    header = TraceHeader(0, 1, 4, 8, 0, dimension, "SGD", "", names, parameters)
    if traced:
        path.write_bytes(header.encoded())
        file = AppendedFile(path)
        trainer = TracingTrainer(
            trainer, gradients, PlainRates(), file, header=header, due=lambda step: step == 2
        )
    weights, losses = [copy.deepcopy(engine.module.state_dict())], list[float]()
    for step in (1, 2):
        losses.append(trainer.step(step_batch(step))["train"]["loss"])
        weights.append(copy.deepcopy(engine.module.state_dict()))
    return losses, weights, header


def test_training_has_the_same_bits_with_a_trace_and_without(tmp_path):
    losses, weights, _ = trained(tmp_path / "trace", traced=True, dimension=2)
    expected_losses, expected, _ = trained(tmp_path / "none", traced=False)
    assert losses == expected_losses
    for found, each in zip(weights, expected, strict=True):
        assert all(torch.equal(found[name], each[name]) for name in each)
    assert not (tmp_path / "none").exists()


def test_what_is_written_adds_up_to_the_steps_of_the_weights(tmp_path):
    path = tmp_path / "trace"
    _, weights, header = trained(path, traced=True)
    file = open_trace_file(path)
    assert file.num_steps == 2
    assert path.stat().st_size == trace_bytes(header, steps=2)
    for step in (1, 2):
        found = file.read(step)
        assert found.kept == 0.5
        assert found.domains.tolist() == [0, 2, 0, 1]
        assert found.windows.tolist() == [4, 5, 6, 7]
        moved = np.repeat(found.rates, header.sizes) * found.gradients.sum(0)
        before, after = weights[step - 1], weights[step]
        names = [parameter.name for parameter in header.parameters]
        expected = torch.cat([(before[name] - after[name]).flatten() for name in names])
        # Gradients are written in float32: 2^-24 of the largest, of four sequences.
        largest = float(abs(found.gradients).max()) * found.rates.max()
        np.testing.assert_allclose(moved, expected, rtol=0, atol=4 * largest * 2**-24)


def test_a_resumed_run_writes_the_same_bytes(tmp_path):
    path = tmp_path / "trace"
    _, _, header = trained(path, traced=True, dimension=2)
    whole = path.read_bytes()
    path.write_bytes(whole + b"a step after the checkpoint, and a part of the next")
    begin_file(path, header, completed=2)
    assert path.read_bytes() == whole
    begin_file(path, header, completed=1)
    assert path.read_bytes() == whole[: len(header.encoded()) + header.frame_bytes]
    begin_file(path, header, completed=0)
    assert path.read_bytes() == header.encoded()


def test_a_run_that_cannot_go_on_with_its_trace_is_refused(tmp_path):
    path = tmp_path / "trace"
    _, _, header = trained(path, traced=True, dimension=2)
    with pytest.raises(ResumeError, match="the trace of the 3 steps before, found 2: trace: null"):
        begin_file(path, header, completed=3)
    for changes, expected in (
        ({"ranks": 2}, "ranks: expected 2, as in this run, found 1"),
        ({"dimension": 4}, "dimension: expected 4, as in this run, found 2"),
        ({"domains": ("a", "b")}, "domains: expected .*, as in this run, found"),
    ):
        with pytest.raises(ResumeError, match=expected):
            begin_file(path, replace(header, **changes), completed=2)
    path.unlink()
    with pytest.raises(ResumeError, match=r"expected a trace, found No such file.*: trace: null"):
        begin_file(path, header, completed=2)


def test_the_size_of_a_trace_is_told_and_limited_beforehand(tmp_path, monkeypatch):
    _, _, header = trained(tmp_path / "none", traced=False, dimension=2)
    config = load_config(write_run(tmp_path), ["trace={}", f"output={tmp_path}"])
    size = trace_bytes(header, steps=10)
    assert size == len(header.encoded()) + 10 * header.frame_bytes
    said: list[str] = []

    def check(limit_gb=1.0, completed=0):
        section = TraceSection(limit_gb=limit_gb)
        limited = config.model_copy(update={"trace": section})
        check_space(limited, header, completed=completed, report=said.append)

    check()
    (line,) = said
    numbers = f"{header.sizes.sum()} numbers of each of 4 sequences a step"
    assert line == f"{tmp_path / 'trace'}: {size / 1e9:.4g} GB in the end, {numbers}"
    check(size / 1e9)
    with pytest.raises(ConfigError, match=f"trace.limit_gb: expected at least {size / 1e9:.4g}"):
        check(0.99 * size / 1e9)
    left = 3 * header.frame_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=left))
    check(completed=7)
    with pytest.raises(ConfigError, match=r"output: expected a disk with .* GB free for the tr"):
        check(completed=6)


def rates_of(optimizer, clipping=0.0):
    module = nn.Linear(2, 2)
    engine = SimpleNamespace(
        module=module, basic_optimizer=optimizer(module.parameters()), optimizer=None
    )
    rank = SimpleNamespace(rank=0, world_size=1)
    return OptimizerRates(engine, rank, ["weight", "bias"], clipping=clipping)  # type: ignore[arg-type]


def test_clipping_and_decay_are_part_of_the_rates():
    rates = rates_of(lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.1), clipping=2.0)
    found, kept = rates({"learning_rate": 0.5, "grad_norm": 4.0})
    np.testing.assert_allclose(found, 0.5 * 2.0 / (4.0 + 1e-6), rtol=1e-15)
    assert kept == 1.0 - 0.5 * 0.1
    found, _ = rates({"learning_rate": 0.5, "grad_norm": 1.0})
    assert found.tolist() == [0.5, 0.5]
    with pytest.raises(UnsupportedEngineError, match="expected the gradient's norm"):
        rates({"learning_rate": 0.5, "grad_norm": None})


def test_an_optimizer_without_moments_is_refused():
    with pytest.raises(UnsupportedEngineError, match="trace: expected an optimizer with second"):
        rates_of(torch.optim.RMSprop)
