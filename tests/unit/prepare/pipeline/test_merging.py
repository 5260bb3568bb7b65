from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.pipeline.merging import plan_shards
from megadga.prepare.pipeline.runs import SortPosition

SIZES = st.lists(st.integers(0, 10**12), min_size=1, max_size=12)


def order(point: SortPosition) -> tuple[int, int, int]:
    return point.split, point.domain, point.key


def plan(train, valid=None, *, shard_tokens=100, range_tokens=1000, domains=None):
    tokens = np.array([train, valid or [0] * len(train)], dtype=np.int64)
    where = domains or range(len(train))
    return list(
        plan_shards("web", where, tokens, shard_tokens=shard_tokens, range_tokens=range_tokens)
    )


@given(SIZES, st.integers(1, 50), st.integers(1, 9))
def test_shards_follow_each_other_from_the_first_domain_to_the_last(sizes, num_shards, num_ranges):
    total = sum(sizes)
    shard_tokens = max(total // num_shards, 1)
    shards = plan(
        sizes, shard_tokens=shard_tokens, range_tokens=max(shard_tokens // num_ranges, 1)
    )
    assert len(shards) == -(-total // shard_tokens)
    if not shards:
        return
    assert [shard.name for shard in shards][:2] == ["train-00000", "train-00001"][: len(shards)]
    points = [point for shard in shards for point in shard.points]
    assert points == sorted(points, key=order)
    assert order(points[0])[:2] <= (0, int(np.flatnonzero(sizes)[0]))
    assert points[0].key == 0
    assert points[-1] == SortPosition(0, len(sizes))
    for one, next_one in pairwise(shards):
        assert one.points[-1] == next_one.points[0]
    assert all(0 <= point.key < 2**64 for point in points)


def test_a_point_lies_at_the_same_share_of_a_domain_s_keys_as_of_its_tokens():
    (one, other) = plan([0, 30, 50, 0], shard_tokens=40)
    assert one.points == (SortPosition(0, 1, 0), SortPosition(0, 2, 2**64 // 5))  # 10 of 50 tokens
    assert other.points == (SortPosition(0, 2, 2**64 // 5), SortPosition(0, 4))


def test_a_shard_is_gathered_in_ranges_of_bounded_size():
    (shard,) = plan([100], shard_tokens=100, range_tokens=30)
    quarters = [SortPosition(0, 0, part * 2**62) for part in range(4)]
    assert shard.points == (*quarters, SortPosition(0, 1))


def test_splits_have_shards_of_their_own():
    shards = plan([10, 10], [0, 5], domains=range(1, 2))
    assert [(shard.name, shard.points) for shard in shards] == [
        ("train-00000", (SortPosition(0, 1), SortPosition(0, 2))),
        ("valid-00000", (SortPosition(1, 1), SortPosition(1, 2))),
    ]
