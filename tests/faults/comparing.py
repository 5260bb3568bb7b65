"""Compares a run that was disturbed with one that was not: everything but times, bit for bit."""

from pathlib import Path

import torch

from megadga.run_folder.checkpoints import completed_checkpoints, load_header
from megadga.run_folder.domain_log import DOMAIN_LOG
from tests.faults.runs import FaultyRun
from tests.support.checkpoints import differing


def assert_equal_runs(disturbed: FaultyRun, undisturbed: FaultyRun) -> None:
    """Check the metrics, every checkpoint that both have kept, and what is left in the folder.

    A checkpoint holds the parameters, the optimizer's states of every rank and the mixture, with
    how far each domain has been read: which sequences come next. That the same ones were trained
    on before is what the loss of each domain in each step says.
    """
    _assert_equal_records(disturbed, undisturbed)
    logs = (each.output / DOMAIN_LOG for each in (disturbed, undisturbed))
    assert len({log.read_bytes() for log in logs}) == 1
    kept = [path.name for path in completed_checkpoints(disturbed.checkpoints)]
    assert len(kept) == 2, kept
    for name in kept:
        one, other = (each.checkpoints / name for each in (disturbed, undisturbed))
        assert differing(one, other) == [], name
        assert _cursors(one) == _cursors(other)
        assert sorted(load_header(one).files) == sorted(load_header(other).files)
    assert disturbed.markers() == {"DONE"}
    assert disturbed.unfinished_files() == []
    assert sorted(path.name for path in disturbed.checkpoints.glob("step-*")) == kept


def _assert_equal_records(disturbed: FaultyRun, undisturbed: FaultyRun) -> None:
    found, expected = disturbed.records(), undisturbed.records()
    for ours, theirs in zip(found, expected, strict=False):
        assert ours == theirs
    assert len(found) == len(expected)


def _cursors(checkpoint: Path) -> list[int]:
    path = next(iter(sorted(checkpoint.glob("*model_states.pt"))))
    state = torch.load(path, map_location="cpu", weights_only=False)
    cursors: list[int] = state["megadga"]["mixture"]["cursors"].tolist()
    assert sum(cursors) > 0
    return cursors
