"""A rank that does not come fails the others, in DeepSpeed's own groups too."""

from tests.support.ranks import run_ranks

DEADLINE_S = 8.0


def test_every_group_gives_up_on_a_missing_rank_when_the_deadline_is_over(tmp_path):
    found = run_ranks("tests.distributed.workers.deadline", 2, tmp_path, str(DEADLINE_S))

    assert len(found) >= 2  # torch's and at least one that was made later
    first, *_ = found
    assert first[0] != "finished"
    # A timer cannot be early; gloo's may be a tenth of a second late, and the machine busy.
    assert DEADLINE_S <= first[1] < 2 * DEADLINE_S
    for outcome, waited_s in found:
        assert outcome != "finished"
        assert waited_s < 2 * DEADLINE_S
