"""What a run starts from, as all ranks agree on it: nothing, or a checkpoint that is verified."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megadga.config.changes import run_identity
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.append import append_shards
from megadga.data.content import contents_of
from megadga.data.order import WindowOrder
from megadga.data.verify import DataFileWatcher
from megadga.errors import ConfigError, MegadgaError, ResumeError, ShardError
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    SavedFile,
    checkpoint_path,
    mark_latest,
    write_header,
)
from megadga.run_folder.domains import DomainRecord, domain_files
from megadga.run_folder.lock import FILE_NAME, RunLock
from megadga.run_folder.requests import Answer, RequestFolder
from megadga.train.data import open_data
from megadga.train.opening import Opened, open_with_rule
from megadga.train.ranks import Ranks
from megadga.train.revisions import rule_name
from megadga.train.start import (
    ResumeRequest,
    RunStart,
    agreed_identity,
    check_same_everywhere,
    find_start,
)
from tests.support.runs import write_run
from tests.support.shards import write_domain, write_sets
from tests.support.thread_ranks import on_ranks
from tests.unit.train.fakes import LoneRank

ALONE = LoneRank()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=2)
    return tmp_path


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(write_run(folder), overrides)


def write_checkpoint(
    config: RunConfig, *, step: int = 6, ranks: int = 1, knows_domains: bool = True
) -> Path:
    """Write what a run leaves after a step, with a file in place of the weights."""
    opened = open_with_rule(config)
    _, data, mixture = opened
    place = checkpoint_path(config.output / "checkpoints", step)
    place.mkdir(parents=True)
    weights = mixture.scheduler.init().weights
    record = DomainRecord(
        contents=contents_of(data.prefixes),
        order=WindowOrder.of([domain.num_sequences for domain in data.domains]),
        cursors=[3, 5],
        weights=weights,
        averaged_weights=weights,
        rule=rule_name(mixture.scheduler),
        step=step,
        num_updates=1,
        num_skipped=0,
        revision=0,
        basis={},
    )
    if knows_domains:
        for name, content in domain_files(record).items():
            (place / name).write_bytes(content)
    (place / "weights.pt").write_bytes(b"as they were")
    files = {"weights.pt": SavedFile.of(place / "weights.pt")}
    identity = run_identity(config, shards=data.identity, ranks=ranks)
    watched = DataFileWatcher(data.files).stamps()
    write_header(place, CheckpointHeader(step, 0, identity, files=files, data=watched))
    mark_latest(place)
    return place
