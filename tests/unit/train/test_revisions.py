"""What becomes of a checkpoint's domains and mixture, as `check --resume` says."""

from pathlib import Path

import numpy as np
import pytest

from megadga.config.changes import run_identity
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.data.append import append_shards
from megadga.data.content import contents_of
from megadga.data.order import WindowOrder
from megadga.errors import ConfigError, ResumeError
from megadga.resume_check import check_resume
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    load_header,
    mark_latest,
    write_header,
)
from megadga.run_folder.domains import DomainRecord, domain_files, domains_path, read_domains
from megadga.train.data import open_data
from megadga.train.live import opened_in_force
from megadga.train.mixture import make_mixture
from megadga.train.opening import open_with_rule
from megadga.train.revision_files import (
    RecordedRevision,
    RevisionWatch,
    read_revision,
    revised_config,
    with_recorded_data,
    write_revision,
)
from megadga.train.revisions import Revision, plan_revision, rule_name
from tests.support.runs import write_run
from tests.support.shards import write_domain, write_sets
from tests.unit.train.fakes import LoneRank

WEIGHTS = np.array([0.5, 0.3, 0.2])
CURSORS = np.array([30, 100, 7])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path, num_domains=3)
    write_domain(tmp_path / "more", seed=20, num_documents=10)
    return tmp_path


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(write_run(folder), overrides)


def checkpoint_of(folder: Path, *overrides: str, revision: int = 0) -> Path:
    """Write what a run's checkpoint says of its domains, and its header."""
    config = config_of(folder, *overrides)
    data = open_data(config)
    mixture = make_mixture(config, data.domains, specific=data.specific, basis=data.basis)
    sizes = np.array([domain.num_sequences for domain in data.domains])
    checkpoint = folder / "out/checkpoints/step-00000006"
    checkpoint.mkdir(parents=True)
    record = DomainRecord(
        contents=contents_of(data.prefixes),
        order=WindowOrder.of(sizes),
        cursors=CURSORS,
        weights=WEIGHTS,
        averaged_weights=WEIGHTS,
        rule=rule_name(mixture.scheduler),
        step=6,
        num_updates=3,
        num_skipped=0,
        revision=revision,
        basis={},
    )
    for name, content in domain_files(record).items():
        (checkpoint / name).write_bytes(content)
    identity = run_identity(config, shards=data.identity, ranks=1)
    write_header(checkpoint, CheckpointHeader(6, 0, identity, files={}))
    mark_latest(checkpoint)
    return checkpoint


def planned(folder: Path, checkpoint: Path, *overrides: str) -> Revision:
    config = config_of(folder, *overrides)
    data = open_data(config)
    mixture = make_mixture(config, data.domains, specific=data.specific, basis=data.basis)
    record = read_domains(checkpoint)
    assert record is not None
    identity = load_header(checkpoint).identity
    return plan_revision(config, data, mixture.scheduler, record, identity)


def change_domains(folder: Path) -> None:
    append_shards(folder / "domains/d1", folder / "more")
    (folder / "domains/d2").rename(folder / "gone")
    write_domain(folder / "domains/d3", seed=40)


def test_nothing_changes_where_nothing_has_changed(folder):
    checkpoint = checkpoint_of(folder)
    revision = planned(folder, checkpoint)
    assert revision.is_none
    np.testing.assert_array_equal(revision.weights, WEIGHTS)
    np.testing.assert_array_equal(revision.cursors, CURSORS)
    assert revision.order.is_initial


def test_domains_enter_grow_and_leave(folder):
    checkpoint = checkpoint_of(folder)
    change_domains(folder)

    revision = planned(folder, checkpoint)

    assert revision.content.names == ("d0", "d1", "d3")
    assert revision.content.statuses == ("kept", "grown", "entered")
    np.testing.assert_array_equal(revision.cursors, [30, 100, 0])
    np.testing.assert_allclose(revision.weights, [2 / 3 * 0.625, 2 / 3 * 0.375, 1 / 3])
    event = revision.event()
    assert (event["grown"], event["entered"], event["left"]) == (["d1"], ["d3"], ["d2"])
    assert event["hash"] == planned(folder, checkpoint).hash
    lines = list(check_resume(config_of(folder)))
    (first,) = (number for number, line in enumerate(lines) if line.startswith("domains "))
    assert lines[first].startswith("domains     1 kept, 1 grown, 1 entered, 1 left; revision ")
    rows = {line.split()[0]: line.split()[1:] for line in lines[first + 3 :]}
    old, size = revision.before.order.sizes[1], revision.order.sizes[1]
    assert rows["d3"][-1] == "0.3333"
    assert rows["d1"][0] == "grown"
    assert rows["d1"][-3:] == [f"{(size - 100 % old) * 8:,}", "0.3000", "0.2500"]
    assert rows["d2"][0] == "left"


@pytest.mark.parametrize(
    ("entering", "expected"),
    [
        ("proportional", None),
        ("{d3: 0.25}", 0.25),
        ("{d3: 0.0, d0: 0.9}", 0.0),
    ],
)
def test_the_share_of_a_domain_that_enters_is_configured(folder, entering, expected):
    checkpoint = checkpoint_of(folder)
    change_domains(folder)
    revision = planned(folder, checkpoint, f"data.entering={entering}")
    share = revision.tokens[2] / revision.tokens.sum() if expected is None else expected
    np.testing.assert_allclose(revision.weights[2], share)
    np.testing.assert_allclose(revision.weights[0] / revision.weights[1], 5 / 3)


def test_a_share_of_no_domain_is_refused_at_its_key(folder):
    checkpoint = checkpoint_of(folder)
    change_domains(folder)
    with pytest.raises(ConfigError, match=r"data\.entering: expected a weight .*\(d3\), found"):
        planned(folder, checkpoint, "data.entering={d4: 0.25}")


def test_another_rule_starts_from_the_weights_and_another_step_size_goes_on(folder):
    checkpoint = checkpoint_of(folder)
    same = planned(folder, checkpoint, "mixing.step_size=3.0")
    assert (same.change.same_rule, same.is_none) == (True, False)
    other = planned(folder, checkpoint, "mixing={type: odm}")
    assert not other.change.same_rule
    np.testing.assert_array_equal(other.weights, WEIGHTS)
    lines = list(check_resume(config_of(folder, "mixing={type: odm}")))
    assert "rule        Dga -> Odm, from the present weights" in lines


def test_other_specific_sets_are_told(folder):
    checkpoint = checkpoint_of(folder)
    other = "data.specific={target: {path: chat, packing: chat}}"
    revision = planned(folder, checkpoint, other)
    assert not revision.change.same_targets
    assert not revision.same_measurement
    assert any(line.startswith("specific ") for line in check_resume(config_of(folder, other)))


def test_a_run_of_other_data_alone_is_refused(folder):
    checkpoint = checkpoint_of(folder)
    write_domain(folder / "others/x", seed=50)
    with pytest.raises(ResumeError, match=r"at least one domain .* 3 left, 1 entered"):
        planned(folder, checkpoint, "data.domains=others")


def test_a_damaged_record_and_one_that_is_missing_are_named(folder):
    checkpoint = checkpoint_of(folder)
    path = domains_path(checkpoint)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ResumeError, match=r"domains\.npz: expected an uncompressed \.npz"):
        read_domains(checkpoint)
    path.unlink()
    assert list(check_resume(config_of(folder)))[-1] == "domains     unchanged"
    change_domains(folder)
    with pytest.raises(ResumeError, match=r"domains\.npz: expected .* of an earlier version"):
        list(check_resume(config_of(folder)))


LIVE = "data.revisions=live.yaml"


def write_live(folder: Path, text: str) -> None:
    (folder / "live.yaml").write_text(text)


def folders(config: RunConfig) -> dict[str, Path]:
    assert not isinstance(config.data.domains, Path)
    return {each.name: each.path for each in config.data.domains}


def test_a_revision_is_the_section_data_with_paths_of_its_folder(folder):
    config = config_of(folder, LIVE)
    write_live(folder, "domains: [{name: d0, path: domains/d0}]\nentering: proportional\n")
    data = read_revision(folder / "live.yaml", config)
    revised = revised_config(config, data)
    assert revised.data.entering == "proportional"
    assert folders(revised) == {"d0": folder / "domains/d0"}
    assert revised.data.specific == config.data.specific


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- d0", r"live\.yaml:1: expected keys of data, such as domains"),
        ("entering: proportional", r"domains: expected a value, found nothing"),
        ("domains: x\nspecific: {}", r"live\.yaml:2: specific: expected a key of data that may"),
        ("domains: x\ndomians: y", r"live\.yaml:2: domians: expected a known key.*'domains'"),
        ("domains: {a: 1", r"live\.yaml:\d: expected"),
    ],
)
def test_a_revision_that_is_none_is_refused_at_its_line(folder, text, message):
    write_live(folder, text)
    with pytest.raises(ConfigError, match=message):
        read_revision(folder / "live.yaml", config_of(folder, LIVE))


def test_a_file_is_taken_once_and_again_when_it_changes(folder):
    watch = RevisionWatch(config_of(folder, LIVE), number=0)
    assert not watch.changed()
    write_live(folder, "domains: {")
    assert watch.changed()
    with pytest.raises(ConfigError):
        watch.take(4)
    assert not watch.changed()
    assert watch.take(4) is None
    write_live(folder, "domains: domains\n")
    proposal = watch.take(8)
    assert proposal is not None
    assert (proposal.number, proposal.is_recorded) == (1, False)
    watch.applied(proposal)
    write_live(folder, "domains: domains\n# once more\n")
    again = watch.take(12)
    assert again is not None
    assert again.number == 2


def test_a_revision_applied_since_the_data_were_opened_is_in_force(folder):
    config = config_of(folder, LIVE)
    before = open_with_rule(with_recorded_data(config))
    write_live(folder, "domains: [{name: d0, path: domains/d0}]\n")
    data = read_revision(folder / "live.yaml", config)
    write_revision(config.output, RecordedRevision(1, 8, "0" * 16, data))
    checkpoint = checkpoint_of(folder, revision=1)  # by the process that had the lock

    revised, opened, _ = opened_in_force(config, before, checkpoint, LoneRank())

    assert folders(revised) == {"d0": folder / "domains/d0"}
    assert [domain.name for domain in opened.domains] == ["d0"]
    after = open_with_rule(with_recorded_data(config))
    assert opened_in_force(config, after, checkpoint, LoneRank()) is after


def test_recorded_revisions_are_applied_again_after_their_step(folder):
    config = config_of(folder, LIVE)
    write_live(folder, "domains: [{name: d0, path: domains/d0}]\n")
    data = read_revision(folder / "live.yaml", config)
    write_revision(config.output, RecordedRevision(1, 8, "0" * 16, data))

    assert with_recorded_data(config) is config  # there is no checkpoint
    checkpoint_of(folder, revision=1)
    resumed = with_recorded_data(config)
    assert folders(resumed) == {"d0": folder / "domains/d0"}
    assert not RevisionWatch(resumed, number=1).changed()
    assert with_recorded_data(config_of(folder)).data.domains == Path("domains").absolute()

    earlier = RevisionWatch(config, number=0)
    assert earlier.changed()
    assert earlier.take(4) is None
    proposal = earlier.take(8)
    assert proposal is not None
    assert (proposal.number, proposal.is_recorded) == (1, True)
    assert proposal.data == data
    assert not earlier.changed()  # the file says the same
