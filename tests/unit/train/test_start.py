"""What a run starts from, as all ranks agree on it: nothing, or a checkpoint that is verified."""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megadga.config.changes import run_identity
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.append import append_shards
from megadga.data.content import contents_of
from megadga.data.order import WindowOrder
from megadga.data.verify import DataFileWatcher
from megadga.errors import ConfigError, ResumeError, ShardError
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
from megadga.train.opening import Opened, open_with_rule
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
WEIGHTS = np.array([0.25, 0.75])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"), num_domains=2)


@pytest.fixture
def folder(tmp_path: Path, sets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("domains", "specific"):
        shutil.copytree(sets / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(write_run(folder), overrides)


def write_checkpoint(config: RunConfig, *, step: int = 6, knows_domains: bool = True) -> Path:
    """Write what a run leaves after a step, with one file in place of the weights."""
    _, data, mixture = open_with_rule(config)
    place = checkpoint_path(config.output / "checkpoints", step)
    place.mkdir(parents=True)
    record = DomainRecord(
        contents=contents_of(data.prefixes),
        order=WindowOrder.of(np.array([domain.num_sequences for domain in data.domains])),
        cursors=np.array([3, 5]),
        weights=WEIGHTS,
        averaged_weights=WEIGHTS,
        rule=rule_name(mixture.scheduler),
        step=step,
        num_updates=1,
        num_skipped=0,
        revision=0,
        basis={},
    )
    contents = {"weights.pt": b"as they were", **(domain_files(record) if knows_domains else {})}
    for name, content in contents.items():
        (place / name).write_bytes(content)
    files = {
        name: SavedFile(len(content), hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    identity = run_identity(config, shards=data.identity, ranks=1)
    stamps = DataFileWatcher(data.files).stamps
    write_header(place, CheckpointHeader(step, 0, identity, files=files, data=stamps))
    mark_latest(place)
    return place


def start_of(
    config: RunConfig,
    wanted: ResumeRequest | None = None,
    *,
    report: Callable[[str], None] = lambda _: None,
) -> RunStart:
    """Find a start on one rank, and release the lock."""
    lock = RunLock(config.output)
    opened = open_with_rule(config)
    try:
        wanted = wanted or ResumeRequest()
        return find_start(config, opened, wanted, lock=lock, ranks=ALONE, report=report)
    finally:
        lock.release()


def test_a_new_run_starts_from_nothing_and_leaves_no_folder(folder):
    config = config_of(folder)

    start = start_of(config)

    assert (start.is_new, start.completed, start.point, start.revision) == (True, 0, None, None)
    assert start.config is start.given is config
    assert start.settings["train_batch_size"] == 8
    assert start.settings["gradient_accumulation_steps"] == 4
    assert start.identity["ranks"] == 1
    assert start.identity["shards"] == start.data.identity
    assert [domain.name for domain in start.data.domains] == ["d0", "d1"]
    assert not config.output.exists()


def test_a_checkpoint_that_must_be_there_and_is_not_is_an_error(folder):
    config = config_of(folder)
    with pytest.raises(ConfigError) as error:
        start_of(config, ResumeRequest(required=True))
    assert "output: expected a run with a checkpoint, found none in" in str(error.value)
    assert str(config.output / "checkpoints") in str(error.value)


def test_a_run_goes_on_from_its_latest_checkpoint_as_it_was(folder):
    config = config_of(folder)
    write_checkpoint(config, step=4)
    latest = write_checkpoint(config, step=6)
    said: list[str] = []

    start = start_of(config, report=said.append)

    assert start.point is not None
    assert start.point.path == latest
    assert (start.is_new, start.completed) == (False, 6)
    assert start.revision is not None
    assert start.revision.is_none
    np.testing.assert_array_equal(start.revision.weights, WEIGHTS)
    np.testing.assert_array_equal(start.revision.cursors, [3, 5])
    assert said == []


def test_going_back_to_a_named_checkpoint_sets_later_requests_aside(folder):
    config = config_of(folder)
    earlier = write_checkpoint(config, step=4)
    write_checkpoint(config, step=6)
    requests = RequestFolder(config.output)
    for step in (3, 5):
        number = requests.submit("freeze", {})
        requests.take(number)
        requests.reply(number, Answer(step))

    start = start_of(config, ResumeRequest(checkpoint=earlier.name))

    assert start.completed == 4
    assert [step for step, _ in requests.applied_after(0)] == [3]
    assert (config.output / "requests/000002.abandoned").is_dir()


def test_the_latest_checkpoint_leaves_requests_as_they_are(folder):
    config = config_of(folder)
    write_checkpoint(config, step=4)
    requests = RequestFolder(config.output)
    number = requests.submit("freeze", {})
    requests.take(number)
    requests.reply(number, Answer(5))

    start_of(config)

    assert [step for step, _ in requests.applied_after(4)] == [5]


def test_another_run_in_the_folder_is_refused_with_what_differs(folder):
    write_checkpoint(config_of(folder))
    with pytest.raises(ResumeError, match="belongs to another run: seed"):
        start_of(config_of(folder, "seed=18"))


def test_what_was_allowed_once_stays_in_the_identity(folder):
    write_checkpoint(config_of(folder))
    config = config_of(folder, "training.precision=bf16")
    key = "training.precision"
    with pytest.raises(ResumeError, match=f"--allow {key}"):
        start_of(config)

    start = start_of(config, ResumeRequest(allowed=[key]))

    assert start.identity["allowed"] == [key]
    assert start.allowed == [key]


def test_a_damaged_checkpoint_is_refused_before_the_model_is_built(folder):
    config = config_of(folder)
    place = write_checkpoint(config)
    (place / "weights.pt").write_bytes(b"as they WERE")
    with pytest.raises(ResumeError, match=r"weights\.pt"):
        start_of(config)


def test_what_has_changed_of_the_domains_is_said_before_training(folder):
    config = config_of(folder)
    write_checkpoint(config)
    write_domain(folder / "domains/d2", seed=20)
    said: list[str] = []

    start = start_of(config_of(folder), report=said.append)

    assert start.revision is not None
    assert start.revision.content.statuses == ("kept", "kept", "entered")
    (text,) = said
    assert text.startswith("domains     2 kept, 1 entered; revision ")


def test_domains_may_not_change_after_a_checkpoint_that_does_not_say_what_they_were(folder):
    config = config_of(folder)
    write_checkpoint(config, knows_domains=False)

    assert start_of(config).revision is None  # nothing has changed

    write_domain(folder / "domains/d2", seed=20)
    with pytest.raises(ResumeError):
        start_of(config_of(folder))


def token_file(folder: Path) -> Path:
    return next((folder / "domains/d0").rglob("*.bin"))


def test_a_data_file_with_another_time_is_verified_by_its_checksum(folder):
    config = config_of(folder)
    write_checkpoint(config)
    touched = token_file(folder)
    os.utime(touched, ns=(1, 1))
    said: list[str] = []

    start_of(config, report=said.append)

    assert said == [
        (
            "1 shard files have changed sizes or times since the checkpoint was written: "
            f"verifying their checksums, {touched.stat().st_size / 1e9:.2f} GB"
        )
    ]


def test_a_data_file_with_other_content_is_refused(folder):
    config = config_of(folder)
    write_checkpoint(config)
    damaged = token_file(folder)
    content = damaged.read_bytes()
    damaged.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(damaged, ns=(1, 1))
    with pytest.raises(ShardError, match=damaged.name):
        start_of(config)


def test_the_folder_of_a_run_that_was_started_before_is_locked(folder):
    """Its last owner may still be writing a first checkpoint."""
    config = config_of(folder)
    config.output.mkdir()
    (config.output / FILE_NAME).touch()
    lock = RunLock(config.output)

    find_start(
        config, open_with_rule(config), ResumeRequest(), lock=lock, ranks=ALONE, report=print
    )

    lock.check()  # raises if it is not held
    lock.release()


def test_ranks_that_read_the_same_go_on(folder):
    opened = open_with_rule(config_of(folder))
    assert on_ranks(lambda rank: check_same_everywhere(opened, rank)) == [None, None]


@pytest.mark.parametrize("what", ["config", "shards"])
def test_a_rank_that_has_read_something_else_is_named_on_every_rank(folder, what):
    first = open_with_rule(config_of(folder))
    other: Opened = first
    if what == "config":
        other = open_with_rule(config_of(folder, "mixing.step_size=0.75"))
    else:
        append_shards(folder / "domains/d1", write_domain(folder / "more", seed=9))
        other = open_with_rule(config_of(folder))

    errors = on_ranks(lambda rank: check_same_everywhere((first, other)[rank.rank], rank))

    key = {"config": "config.mixing.step_size", "shards": "shards"}[what]
    start = f"rank 1 on {socket.gethostname()}: differs from rank 0: {key}"
    assert [type(error) for error in errors] == [ConfigError, ConfigError]
    assert all(str(error).startswith(start) for error in errors)
    if what == "config":
        assert "0.5" in str(errors[0])
        assert "0.75" in str(errors[0])


def test_the_identity_with_other_data_remembers_what_was_allowed(folder):
    config = config_of(folder)
    opened = open_with_rule(config)
    before = start_of(config, ResumeRequest()).identity

    found = agreed_identity(opened, ranks=ALONE, before=before)

    assert found == before
    assert found["shards"] == opened[1].identity
