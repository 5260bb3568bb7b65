import pytest

from megadga.errors import ResumeError
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    checkpoint_path,
    find_checkpoint,
    mark_best,
    mark_latest,
    write_header,
)
from megadga.run_folder.retention import Retention, best_checkpoints, prune

LOSS = "specific/target"
LOSSES = {100: 3.0, 200: 2.0, 300: 2.5, 400: 2.0, 500: None, 600: 2.2}
"""By step; that of step 500 was not evaluated."""


@pytest.fixture
def folder(tmp_path):
    for step, loss in LOSSES.items():
        path = checkpoint_path(tmp_path, step)
        path.mkdir()
        losses = {} if loss is None else {LOSS: loss, "general": -loss}
        write_header(path, CheckpointHeader(step, 0, {}, {}, losses=losses))
    mark_latest(checkpoint_path(tmp_path, 600))
    return tmp_path


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


RETENTIONS = {
    "the newest": (Retention(1), {600}),
    "all": (Retention(None, keep_every=300), {*LOSSES}),
    "every third": (Retention(1, keep_every=300), {300, 600}),
    "the best, of equal ones the earlier": (Retention(1, best_loss=LOSS), {200, 600}),
    "the two best": (Retention(1, best_loss=LOSS, num_best=2), {200, 400, 600}),
    "more best ones than losses": (Retention(1, best_loss=LOSS, num_best=9), {*LOSSES} - {500}),
    "by another loss": (Retention(2, best_loss="general"), {100, 500, 600}),
    "by a loss that none has": (Retention(2, best_loss="domains/d0"), {500, 600}),
    "by every rule": (Retention(1, 300, best_loss=LOSS), {200, 300, 600}),
}


@pytest.mark.parametrize("name", RETENTIONS)
def test_what_a_rule_names_is_kept(folder, name):
    retention, kept = RETENTIONS[name]

    prune(folder, newest=checkpoint_path(folder, 600), retention=retention)

    assert steps(folder) == sorted(kept)


def test_a_rewound_run_forgets_what_was_better_later(folder):
    newest = checkpoint_path(folder, 100)
    mark_latest(newest)

    assert best_checkpoints(folder, newest=newest, loss=LOSS) == [newest]
    prune(folder, newest=newest, retention=Retention(1, 200, best_loss=LOSS), remove_later=False)
    assert steps(folder) == [*LOSSES]  # until the rewound run has a checkpoint of its own
    prune(folder, newest=newest, retention=Retention(1, 200, best_loss=LOSS))
    assert steps(folder) == [100]


def test_what_is_being_written_is_not_removed_and_what_was_left_is(folder):
    checkpoint_path(folder, 700).mkdir()
    checkpoint_path(folder, 650).mkdir()
    newest = checkpoint_path(folder, 600)

    prune(
        folder,
        newest=newest,
        retention=Retention(1),
        unfinished=[checkpoint_path(folder, 700)],
    )

    assert steps(folder) == [600, 700]


def test_a_damaged_header_has_no_loss(folder):
    (checkpoint_path(folder, 200) / "megadga.json").write_text("{")

    best = best_checkpoints(folder, newest=checkpoint_path(folder, 600), loss=LOSS)

    assert best[0] == checkpoint_path(folder, 400)


def test_the_best_is_a_name_that_can_be_asked_for(folder):
    mark_best(folder, checkpoint_path(folder, 200))
    assert find_checkpoint(folder, wanted="best") == checkpoint_path(folder, 200)

    mark_best(folder, None)
    with pytest.raises(ResumeError, match=r"best: .*checkpoint\.keep_best, found no such file$"):
        find_checkpoint(folder, wanted="best")


def test_a_best_that_is_gone_is_refused(folder):
    mark_best(folder, checkpoint_path(folder, 150))

    with pytest.raises(ResumeError, match=r"found step-00000150, which is no checkpoint$"):
        find_checkpoint(folder, wanted="best")
