"""Requests of people to a run that is training: found, agreed on, applied and answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megadga.errors import ConfigError
from megadga.run_folder.requests import Answer, RequestFolder
from megadga.train.ranks import OtherRankError
from megadga.train.requests import MixtureRequests
from tests.support.thread_ranks import on_ranks
from tests.unit.train.fakes import LoneRank


@dataclass
class Mixture:
    """Weights of two domains that are set, and a flag; what `MixtureRequests` changes.

    A weight above 1 is refused, as a plugin refuses what no batch can be drawn from.
    """

    step: int = 0
    weighted: tuple[str, ...] = ("law", "code")
    weights: dict[str, float] = field(default_factory=lambda: {"law": 0.25, "code": 0.75})
    frozen: bool = False

    @property
    def rule_weights(self) -> Any:
        return np.array([self.weights[name] for name in self.weighted])

    def set_by_hand(self, weights: Mapping[str, float]) -> dict[str, Any]:
        if max(weights.values()) > 1.0:
            raise ConfigError("weights: expected at most 1, found more")
        self.weights |= {name: weights[name] for name in weights if name in self.weighted}
        return {"update": {"averaged_weights": dict(self.weights)}}

    def freeze(self) -> None:
        self.frozen = True

    def release(self) -> None:
        self.frozen = False


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def requests_of(
    folder: Path, mixture: Mixture, *, ranks: Any = None, clock: Clock | None = None
) -> MixtureRequests:
    untyped: Any = mixture
    return MixtureRequests(
        RequestFolder(folder), lambda: untyped, ranks or LoneRank(), clock=clock or Clock()
    )


def step_of(requests: MixtureRequests, mixture: Mixture, step: int, *, others: float = 0.0) -> Any:
    """Do what a run does in a step; return what is logged."""
    requests.update_from_sum(requests.own() + others)
    mixture.step = step
    return requests.after_step(step)


def test_without_requests_nothing_is_logged(tmp_path):
    mixture = Mixture()
    requests = requests_of(tmp_path, mixture)
    assert requests.own() == 0.0
    assert step_of(requests, mixture, 1) == []


def test_weights_are_set_answered_and_logged(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    number = folder.submit("set", {"law": 0.5, "code": 0.5})
    (asked,) = folder.pending()
    requests = requests_of(tmp_path, mixture)

    logged = step_of(requests, mixture, 7)

    after = {"law": 0.5, "code": 0.5}
    assert mixture.weights == after
    assert logged == [
        {
            "update": {"averaged_weights": after},
            "event": {
                "event": "mixture_set",
                "request": number,
                "by": asked.by,
                "at": asked.at,
                "before": {"law": 0.25, "code": 0.75},
                "weights": after,
            },
        }
    ]
    assert folder.answer(number) == Answer(7, "", after)
    assert folder.pending() == ()
    assert step_of(requests, mixture, 8) == []


def test_a_mixture_is_frozen_and_released_in_the_order_of_requests(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    numbers = [folder.submit("release", {}), folder.submit("freeze", {})]

    logged = step_of(requests_of(tmp_path, mixture), mixture, 3)

    assert mixture.frozen
    assert [each["event"]["event"] for each in logged] == ["mixture_released", "mixture_frozen"]
    assert [folder.answer(number) for number in numbers] == [Answer(3), Answer(3)]
    assert all("weights" not in each["event"] for each in logged)


def test_what_the_mixture_refuses_is_answered_with_its_error_and_changes_nothing(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    number = folder.submit("set", {"law": 2.0})

    (logged,) = step_of(requests_of(tmp_path, mixture), mixture, 3)

    error = "weights: expected at most 1, found more"
    assert logged.keys() == {"event"}
    assert logged["event"]["event"] == "mixture_request_refused"
    assert logged["event"]["error"] == error
    assert "before" not in logged["event"]
    assert folder.answer(number) == Answer(3, error, {"law": 0.25})
    assert mixture == Mixture(step=3)


def test_a_file_that_is_no_request_is_refused_by_its_name(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    number = folder.submit("set", {"law": 0.5})
    place = tmp_path / "requests/000001/request.json"
    place.write_text('{"action": "explode", "weights": {}, "by": "me", "at": "now"}')

    (logged,) = step_of(requests_of(tmp_path, mixture), mixture, 3)

    taken = place.with_name("taken.json")
    error = f"{taken}: expected action, weights, by and at, found something else"
    assert logged["event"]["error"] == error
    assert folder.answer(number) == Answer(3, error)
    assert mixture.weights == {"law": 0.25, "code": 0.75}


def test_names_that_the_mixture_does_not_have_are_left_out_of_what_is_logged(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    folder.submit("set", {"law": 0.5, "poems": 0.125})
    (logged,) = step_of(requests_of(tmp_path, mixture), mixture, 3)
    assert logged["event"]["before"] == {"law": 0.25}
    assert logged["event"]["weights"] == {"law": 0.5}


def test_the_folder_is_looked_at_once_a_second(tmp_path):
    folder, mixture, clock = RequestFolder(tmp_path), Mixture(), Clock()
    requests = requests_of(tmp_path, mixture, clock=clock)
    assert requests.own() == 0.0
    folder.submit("freeze", {})
    clock.now += 0.75
    assert requests.own() == 0.0
    clock.now += 0.25
    assert requests.own() == 1.0
    assert requests.own() == 1.0  # it waits until all ranks know


def test_a_request_that_is_withdrawn_before_it_is_taken_is_not_applied(tmp_path):
    folder, mixture = RequestFolder(tmp_path), Mixture()
    number = folder.submit("freeze", {})
    requests = requests_of(tmp_path, mixture)
    requests.update_from_sum(requests.own())
    assert folder.withdraw(number)

    assert requests.after_step(3) == []
    assert not mixture.frozen
    assert folder.answer(number) is None


def test_a_folder_that_cannot_be_read_is_looked_at_again(tmp_path):
    """As of a network file system that is away for a while: other ranks would wait."""
    folder, mixture, clock = RequestFolder(tmp_path), Mixture(), Clock()
    folder.submit("freeze", {})
    requests = requests_of(tmp_path, mixture, clock=clock)
    away = tmp_path / "requests"
    away.rename(tmp_path / "elsewhere")
    away.touch()  # no folder
    assert requests.own() == 0.0
    away.unlink()
    (tmp_path / "elsewhere").rename(away)
    clock.now += 1.0
    assert step_of(requests, mixture, 3)[0]["event"]["event"] == "mixture_frozen"


def test_a_resumed_run_applies_requests_again_after_the_same_steps(tmp_path):
    """Each waits for its step, and new ones for all of them."""
    folder, mixture = RequestFolder(tmp_path), Mixture()
    for step, weight in ((4, 0.125), (6, 0.25), (8, 0.375)):
        number = folder.submit("set", {"law": weight})
        folder.take(number)
        folder.reply(number, Answer(step, "", {"law": weight, "code": 0.5}))
    mixture.step = 5
    later = folder.submit("freeze", {})
    requests = requests_of(tmp_path, mixture)

    requests.resume()

    applied = []
    for step in range(6, 11):
        mixture.step = step
        requests.update_from_sum(requests.own())
        applied += [(step, each["event"]["request"]) for each in requests.after_step(step)]
    assert applied == [(6, 2), (8, 3), (9, later)]
    assert mixture.weights["law"] == 0.375
    assert mixture.frozen
    assert folder.answer(2) == Answer(6, "", {"law": 0.25, "code": 0.5})  # as it was answered then


def test_requests_that_all_ranks_apply_are_taken_by_rank_0_alone(tmp_path):
    folder = RequestFolder(tmp_path)
    number = folder.submit("set", {"law": 0.5})
    mixtures = [Mixture(), Mixture()]

    def work(rank):
        mixture = mixtures[rank.rank]
        requests = requests_of(tmp_path, mixture, ranks=rank)
        own = requests.own()
        requests.update_from_sum(sum(rank.objects(own)))
        return own, requests.after_step(7)

    (first, logged), (second, of_other) = on_ranks(work)

    assert (first, second) == (1.0, 0.0)
    assert logged == of_other
    assert mixtures[0].weights == mixtures[1].weights == {"law": 0.5, "code": 0.75}
    assert folder.answer(number) == Answer(7, "", {"law": 0.5})


def test_requests_that_cannot_be_read_when_a_run_resumes_are_an_error_on_every_rank(tmp_path):
    (tmp_path / "requests").touch()  # no folder

    def work(rank):
        requests_of(tmp_path, Mixture(), ranks=rank).resume()

    first, second = on_ranks(work)

    assert isinstance(first, NotADirectoryError)
    assert isinstance(second, OtherRankError)
    assert str(second).startswith("rank 0 failed: NotADirectoryError: ")
