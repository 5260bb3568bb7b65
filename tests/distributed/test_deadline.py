"""What a rank that fails or does not come means for the others, in DeepSpeed's own groups too."""

import pytest

from tests.support.ranks import run_ranks

DEADLINE_S = 8.0


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deadline")
    return run_ranks("tests.distributed.workers.deadline", 2, folder, str(DEADLINE_S))


def test_every_group_gives_up_on_a_missing_rank_when_the_deadline_is_over(found):
    waits = found["waits"]

    assert len(waits) >= 2  # torch's and at least one that was made later
    first, *_ = waits
    assert first[0] != "finished"
    # A timer cannot be early; gloo's may be a tenth of a second late, and the machine busy.
    assert DEADLINE_S <= first[1] < 2 * DEADLINE_S
    for outcome, waited_s in waits:
        assert outcome != "finished"
        assert waited_s < 2 * DEADLINE_S


def test_what_fails_on_the_first_rank_alone_reaches_the_others_at_once(found):
    (first, _), (other, waited_s) = found["failed"]

    message = "OSError: [Errno 28] No space left on device: 'metrics.jsonl'"
    assert first == message
    assert other == f"OtherRankError: rank 0 failed: {message}"
    assert waited_s < DEADLINE_S / 2


def test_what_the_first_rank_reads_is_what_all_ranks_have(found):
    assert found["shared"] == [0, 0]


def test_a_finished_run_is_finished_on_every_rank_whatever_the_others_see(found):
    assert found["finished"] == ["finished after step 10"] * 2
