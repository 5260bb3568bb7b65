"""Applies requests to a run's mixture between steps, on all ranks at once."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, final

from megadga.errors import MegadgaError
from megadga.plugin import Metrics, MixturePlugin
from megadga.report.sampling import FROZEN, RELEASED
from megadga.run_folder.requests import Answer, Request, RequestFolder
from megadga.train.ranks import Ranks, on_first_rank

_POLL_S = 1.0


@final
class MixtureRequests:
    """Finds requests on rank 0, and applies them after an optimizer step; a ``CollectiveFlag``.

    That there is one is added to an all-reduce that every step makes anyway; only then the request
    itself is broadcast. Requests are applied in their order. Those that were applied after the
    step that a run resumes from are applied again, after the same steps; later ones wait for them.

    Args:
        folder: The run's requests.
        mixture: The run's mixture.
        ranks: All ranks.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        folder: RequestFolder,
        mixture: MixturePlugin,
        ranks: Ranks,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._mixture = mixture
        self._ranks = ranks
        self._clock = clock
        self._replayed = deque[tuple[int, Request]]()
        self._pending: tuple[Request, ...] = ()
        self._next_poll = clock()
        self._agreed = False

    def resume(self) -> None:
        """Find the requests to apply again after the steps that follow. Collective.

        Raises:
            OtherRankError: If rank 0 cannot read them.
        """
        found = on_first_rank(self._ranks, lambda: self._folder.applied_after(self._mixture.step))
        self._replayed = deque(found)

    def own(self) -> float:
        """Return this rank's contribution to the sum: 1 if there is a request to apply, else 0."""
        if self._ranks.rank != 0:
            return 0.0
        if self._replayed:
            return float(self._replayed[0][0] <= self._mixture.step)
        if not self._pending and self._clock() >= self._next_poll:
            self._next_poll = self._clock() + _POLL_S
            try:
                self._pending = self._folder.pending()
            except OSError:  # a network file system; others would wait for this rank
                return 0.0
        return float(bool(self._pending))

    def update_from_sum(self, total: float) -> None:
        """Update from the sum over all ranks, which is equal on every rank."""
        self._agreed = total > 0.0

    def after_step(self, step: int) -> list[Metrics]:
        """Apply the requests that the ranks have agreed on. Collective if there are any.

        Call it after the mixture's update, and before the checkpoint, of the step.

        Returns:
            Records to log, for each request: an ``event``, and an ``update`` if weights were set.

        Raises:
            OtherRankError: If rank 0 cannot read or write the folder.
        """
        if not self._agreed:
            return []
        self._agreed = False
        requests = on_first_rank(self._ranks, lambda: self._take(step))
        return [self._apply(step, *each) for each in requests]

    def _take(self, step: int) -> list[tuple[Request, bool]]:
        """Return the requests to apply now, and whether each has been answered before."""
        again: list[tuple[Request, bool]] = []
        while self._replayed and self._replayed[0][0] <= step:
            again.append((self._replayed.popleft()[1], True))
        if again:
            return again
        taken = [self._folder.take(request.number) for request in self._pending]
        self._pending = ()
        return [(request, False) for request in taken if request is not None]

    def _apply(self, step: int, request: Request, answered: bool) -> Metrics:
        """Apply a request on every rank, and answer it. Collective."""
        before = self._weights(request)
        metrics: Metrics = {}
        error = request.invalid
        try:
            if not error:
                metrics = self._change(request)
        except MegadgaError as refused:  # by every rank
            error = str(refused)
        after = self._weights(request)
        if not answered:
            answer = Answer(step, error, after)
            on_first_rank(self._ranks, lambda: self._folder.reply(request.number, answer))
        event: dict[str, Any] = {
            "event": "mixture_request_refused" if error else _EVENTS[request.action],
            "request": request.number,
            "by": request.by,
            "at": request.at,
        }
        if error:
            event["error"] = error
        elif request.action == "set":
            event |= {"before": before, "weights": after}
        return {**metrics, "event": event}

    def _change(self, request: Request) -> Metrics:
        match request.action:
            case "set":
                return self._mixture.set_by_hand(request.weights)
            case "freeze":
                self._mixture.freeze()
            case "release":
                self._mixture.release()
        return {}

    def _weights(self, request: Request) -> dict[str, float]:
        """Return the present averaged weights of what a request names."""
        if not request.weights:
            return {}
        current = dict(
            zip(self._mixture.weighted, self._mixture.rule_weights.tolist(), strict=True)
        )
        return {name: current[name] for name in request.weights if name in current}


_EVENTS = {"set": "mixture_set", "freeze": FROZEN, "release": RELEASED}
