import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.pipeline.runs import (
    RunReader,
    SortPosition,
    TokenizedDocuments,
    divide_groups,
    group_numbers,
    run_checksum,
    split_documents,
    write_run,
)

DTYPE = np.dtype("<u2")


def documents(places: list[tuple[int, int, int]], *, ids: bool = False) -> TokenizedDocuments:
    """Documents at (split, domain, key); document n has n % 3 + 1 tokens, all of them n."""
    lengths = np.array([number % 3 + 1 for number in range(len(places))], dtype=np.int64)
    splits, domains, keys = (list(column) for column in zip(*places, strict=True))
    return TokenizedDocuments(
        tokens=np.repeat(np.arange(len(places)), lengths).astype(DTYPE),
        lengths=lengths,
        groups=group_numbers(np.array(splits, np.int64), np.array(domains, np.int64)),
        keys=np.array(keys, dtype=np.uint64),
        ids=[f"id {number} é" for number in range(len(places))] if ids else [],
    )


def numbers(found: TokenizedDocuments) -> list[int]:
    """Return which documents these are."""
    return [int(tokens[0]) for tokens in split_documents(found.tokens, found.lengths)]


PLACES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 9) | st.just(2**64 - 1)),
    min_size=1,
    max_size=40,
)
POINTS = st.builds(SortPosition, st.integers(0, 2), st.integers(0, 6), st.integers(0, 10))


@given(PLACES, POINTS, POINTS, st.booleans())
def test_a_range_is_what_sorting_and_comparing_gives(tmp_path_factory, places, one, other, ids):
    prefix = tmp_path_factory.mktemp("run") / "000000-0000"
    write_run(prefix, [documents(places, ids=ids)], DTYPE)
    first, last = sorted((one, other), key=lambda point: (point.split, point.domain, point.key))
    low, high = ((p.split, p.domain, p.key) for p in (first, last))
    expected = sorted(
        (n for n in range(len(places)) if low <= places[n] < high), key=lambda n: (places[n], n)
    )
    found = RunReader(prefix, DTYPE, domains=None).between(first, last)
    assert numbers(found) == expected
    splits, domains = divide_groups(found.groups)
    found_places = zip(splits.tolist(), domains.tolist(), found.keys.tolist(), strict=True)
    assert list(found_places) == [places[n] for n in expected]
    assert found.ids == ([f"id {n} é" for n in expected] if ids else [])


def test_equal_places_keep_their_order_over_batches(tmp_path):
    batch = documents([(0, 1, 7)] * 4)
    write_run(tmp_path / "a", [batch, batch], DTYPE)
    found = RunReader(tmp_path / "a", DTYPE, domains=None).between(
        SortPosition(0, 0), SortPosition(2, 0)
    )
    assert numbers(found) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_run_says_how_much_there_is_of_each_group(tmp_path):
    write_run(tmp_path / "a", [documents([(1, 2, 0), (0, 4, 9), (0, 4, 3), (0, 0, 5)])], DTYPE)
    run = RunReader(tmp_path / "a", DTYPE, domains=None)
    splits, domains = divide_groups(run.groups)
    assert (splits.tolist(), domains.tolist()) == ([0, 0, 1], [0, 4, 2])
    assert run.num_documents.tolist() == [1, 2, 1]
    assert run.num_tokens.tolist() == [1, 2 + 3, 1]


def test_domains_can_be_given_other_numbers(tmp_path):
    write_run(tmp_path / "a", [documents([(0, 0, 1), (0, 1, 2), (1, 1, 3)])], DTYPE)
    run = RunReader(tmp_path / "a", DTYPE, domains=np.array([3, 8]))
    assert numbers(run.between(SortPosition(0, 8), SortPosition(0, 9))) == [1]
    assert numbers(run.between(SortPosition(0, 4), SortPosition(2, 0))) == [1, 2]


def test_a_run_knows_its_checksum_from_that_of_a_damaged_one(tmp_path):
    checksum = write_run(tmp_path / "a", [documents([(0, 0, 1), (0, 1, 2)], ids=True)], DTYPE)
    assert run_checksum(tmp_path / "a") == checksum
    for suffix in (".tokens", ".index", ".ids"):
        content = (tmp_path / f"a{suffix}").read_bytes()
        (tmp_path / f"a{suffix}").write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert run_checksum(tmp_path / "a") not in (checksum, None)
        (tmp_path / f"a{suffix}").unlink()
        assert run_checksum(tmp_path / "a") is None
        (tmp_path / f"a{suffix}").write_bytes(content)


@pytest.mark.parametrize("missing", [".tokens", ".ids"])
def test_the_index_appears_last(tmp_path, missing):
    (tmp_path / f"a{missing}").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="directory"):
        write_run(tmp_path / "a", [documents([(0, 0, 1)], ids=True)], DTYPE)
    assert not (tmp_path / "a.index").exists()
