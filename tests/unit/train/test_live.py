from pathlib import Path
from typing import Any

import pytest

from megadga.errors import ConfigError
from megadga.train.live import LiveRevisions
from megadga.train.revision_files import RevisionWatch
from tests.unit.train.fakes import LoneRank
from tests.unit.train.test_revisions import LIVE, config_of, write_live


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def live(folder: Path, apply: Any) -> LiveRevisions:
    watch = RevisionWatch(config_of(folder, LIVE), number=0)
    return LiveRevisions(
        watch,
        ranks=LoneRank(),
        is_due=lambda step: step % 4 == 0,
        apply=apply,
        record=lambda: {"sampler": {}},
        windows=lambda: {"d0": 4},
    )


def after_step(revisions: LiveRevisions, step: int) -> Any:
    """What a step of training does: the flag goes through its all-reduce."""
    revisions.flag.update_from_sum(revisions.flag.own())
    return revisions.after_step(step)


def test_a_revision_waits_for_an_update_and_is_refused_once(folder):
    applied: list[int] = []

    def refuse(proposal, step):
        applied.append(step)
        raise ConfigError("data.domains: expected shards, found none")

    revisions = live(folder, refuse)
    assert after_step(revisions, 4) == {}
    write_live(folder, "domains: domains\n")
    assert [after_step(revisions, step) for step in (5, 6, 7)] == [{}] * 3
    refused = {"event": "revision_refused", "error": "data.domains: expected shards, found none"}
    assert after_step(revisions, 8) == {"event": refused}
    assert after_step(revisions, 12) == {}
    assert applied == [8]

    write_live(folder, "domains: [\n")
    assert "live.yaml" in after_step(revisions, 16)["event"]["error"]
    assert applied == [8]


def test_a_file_without_a_change_is_no_event(folder):
    revisions = live(folder, lambda proposal, step: None)
    write_live(folder, "domains: domains\n")
    assert after_step(revisions, 4) == {}
    assert not revisions.flag.own()
