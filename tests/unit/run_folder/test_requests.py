"""Requests to a run are numbered, taken or withdrawn, answered, and found again."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from megadga.run_folder.requests import Answer, RequestFolder


@pytest.fixture
def folder(tmp_path):
    return RequestFolder(tmp_path)


def test_a_request_is_pending_until_it_is_answered(folder):
    number = folder.submit("set", {"code": 0.25})
    (request,) = folder.pending()
    assert (request.number, request.action, request.weights) == (1, "set", {"code": 0.25})
    assert "@" in request.by
    assert request.at.endswith("UTC")
    assert folder.take(number) == request
    assert folder.pending() == (request,)  # of a run that died before its answer
    folder.reply(number, Answer(7, weights={"code": 0.25}))
    assert folder.pending() == ()
    assert folder.answer(number) == Answer(7, "", {"code": 0.25})


def test_a_request_is_either_taken_or_withdrawn(folder):
    first, second = folder.submit("freeze", {}), folder.submit("release", {})
    assert folder.withdraw(first)
    assert folder.take(first) is None
    assert folder.take(second) is not None
    assert not folder.withdraw(second)
    assert [request.number for request in folder.pending()] == [second]


def test_numbers_of_requests_made_at_once_are_different(folder):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: folder.submit("freeze", {}), range(40)))
    assert sorted(numbers) == list(range(1, 41))


def test_requests_applied_after_a_step_are_found_in_their_order(folder):
    for step, error in ((3, ""), (5, ""), (5, "no such domain"), (9, "")):
        number = folder.submit("freeze", {})
        folder.take(number)
        folder.reply(number, Answer(step, error))
    assert [(step, r.number) for step, r in folder.applied_after(3)] == [(5, 2), (9, 4)]
    folder.abandon_after(5)
    assert [(step, r.number) for step, r in folder.applied_after(0)] == [(3, 1), (5, 2)]
    assert folder.submit("freeze", {}) == 5  # not that of one that was set aside


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"action": "stop", "weights": {}, "by": "me", "at": "now"}',
     '{"action": "set", "weights": {"code": "much"}, "by": "me", "at": "now"}'],
)  # fmt: skip
def test_a_file_that_is_no_request_says_so(folder, tmp_path, content):
    number = folder.submit("freeze", {})
    (tmp_path / "requests/000001/request.json").write_text(content)
    (request,) = folder.pending()
    assert request.number == number
    assert request.invalid.endswith("expected action, weights, by and at, found something else")


def test_a_run_without_requests_has_none(folder):
    assert folder.pending() == ()
    assert folder.applied_after(0) == ()
    assert folder.answer(1) is None
