"""Marked ids, and the spans of trained tokens in a shard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.targets import (
    INPUT_ONLY,
    PADDING,
    TrainedSpans,
    find_spans,
    mark_targets,
    unmark_targets,
)
from megadga.errors import ShardError

DOCUMENTS = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6)


def spans_of(documents) -> TrainedSpans:
    lengths = np.array([len(document) for document in documents])
    trained = np.concatenate([np.array(document, dtype=bool) for document in documents])
    return TrainedSpans(find_spans(trained, np.cumsum(lengths) - lengths))


@given(st.lists(st.tuples(st.integers(0, 1 << 31), st.booleans()), min_size=1))
def test_marked_ids_are_told_from_others_and_from_padding(tokens):
    ids, trained = map(np.array, zip(*tokens, strict=True))
    marked = mark_targets(ids, trained)
    assert ((marked >= 0) == trained).all()
    assert (marked[~trained] <= INPUT_ONLY).all()
    assert INPUT_ONLY < PADDING
    found, found_trained = unmark_targets(marked)
    assert (found == ids).all()
    assert (found_trained == trained).all()


@given(documents=DOCUMENTS)
def test_spans_say_of_every_token_whether_it_is_trained(documents):
    spans, flat = spans_of(documents), np.concatenate(documents)
    places = np.arange(flat.size + 1)
    assert spans.num_before(places).tolist() == [0, *np.cumsum(flat)]
    assert spans.num_tokens == flat.sum()
    for width in (1, flat.size):
        starts = np.arange(flat.size - width + 1)
        rows = np.lib.stride_tricks.sliding_window_view(flat, width)
        assert (spans.trained(starts, width) == rows).all()
    ends = np.cumsum([len(document) for document in documents])
    low, high = spans.bounds.T
    assert (high <= ends[np.searchsorted(ends, low, side="right")]).all()


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([[1, 3], [2, 5]], "span 1: expected 3 <= start < stop <= 9, found 2 and 5"),
        ([[4, 4]], "span 0: expected 0 <= start < stop <= 9, found 4 and 4"),
        ([[-2, 4]], "span 0: expected 0 <= start < stop <= 9, found -2 and 4"),
        ([[8, 10]], "span 0: expected 0 <= start < stop <= 9, found 8 and 10"),
        ([[1, 2], [3, 4], [9, 9]], "span 2: expected 4 <= start < stop <= 9, found 9 and 9"),
    ],
)
def test_spans_that_cannot_be_are_refused_by_number(tmp_path, bounds, message):
    path = tmp_path / "a.spans"
    path.write_bytes(np.array(bounds, dtype="<i8").tobytes())
    with pytest.raises(ShardError) as caught:
        TrainedSpans.read(path, 9)
    assert str(caught.value) == f"{path}: {message}"


def test_a_cut_file_of_spans_is_refused(tmp_path):
    path = tmp_path / "a.spans"
    path.write_bytes(b"\0" * 24)
    with pytest.raises(ShardError, match="expected a multiple of 16 bytes, found 24"):
        TrainedSpans.read(path, 9)
