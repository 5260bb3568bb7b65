"""Requests to a run that is training, as files in its folder: set its weights, freeze them.

``OUTPUT/requests/000001/request.json`` is a request. Rank 0 takes it by renaming it to
``taken.json``, and writes ``answer.json`` when the request has been applied after an optimizer
step, or refused. Whoever made it may withdraw it by removing it before it is taken: one of the two
succeeds. Requests and answers stay, so that a run that goes back to a checkpoint applies what was
applied after it again, after the same steps.
"""

import getpass
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, final

from megadga.data.files import atomic_write, parse_strictly

FOLDER = "requests"

Action = Literal["set", "freeze", "release"]

_REQUEST, _TAKEN, _ANSWER = "request.json", "taken.json", "answer.json"
_NUMBER = re.compile(r"\d{6,}", re.ASCII)
_ABANDONED = ".abandoned"


@dataclass(frozen=True)
class Request:
    """What a person asks of a run.

    Attributes:
        number: From 1, in the order of requests.
        action: ``set`` weights, ``freeze`` the mixture, or ``release`` it.
        weights: New averaged weights by name; empty unless they are set.
        by: The user, and the machine.
        at: When, in UTC.
        invalid: What is wrong with the file, which somebody else has written; empty: nothing.
    """

    number: int
    action: Action
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    by: str = ""
    at: str = ""
    invalid: str = ""


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        step: Optimizer steps that were completed then.
        error: Why it was refused, so that nothing has changed; empty: it was applied.
        weights: Averaged weights of the domains that it named, afterwards.
    """

    step: int
    error: str = ""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])


@final
class RequestFolder:
    """The requests to one run.

    Args:
        output: The run's folder.
    """

    def __init__(self, output: Path) -> None:
        self._folder = output / FOLDER

    def submit(self, action: Action, weights: Mapping[str, float]) -> int:
        """Write a request; return its number.

        Raises:
            OSError: If it cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        number = max(self._numbers(abandoned=True), default=0) + 1
        while True:
            place = self._place(number)
            try:
                place.mkdir()  # by one process only
                break
            except FileExistsError:
                number += 1
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        content = {"action": action, "weights": dict(weights), "by": _who(), "at": at}
        _write(place / _REQUEST, content)
        return number

    def withdraw(self, number: int) -> bool:
        """Remove a request that the run has not taken; return whether it was removed.

        Raises:
            OSError: If that fails for another reason than that it was taken.
        """
        try:
            (self._place(number) / _REQUEST).unlink()
        except FileNotFoundError:
            return False
        return True

    def answer(self, number: int) -> Answer | None:
        """Return the answer to a request, None if there is none yet."""
        content = _read(self._place(number) / _ANSWER)
        match content.get("step"), content.get("error"), _weights(content):
            case int(step), str(error), dict() as weights:
                return Answer(step, error, weights)
            case _:
                return None

    def pending(self) -> tuple[Request, ...]:
        """Return the requests without an answer, in order; also those taken by a run that died."""
        open_ = [number for number in self._numbers() if self.answer(number) is None]
        found = (self._request(number) for number in open_)
        return tuple(request for request in found if request is not None)

    def applied_after(self, step: int) -> tuple[tuple[int, Request], ...]:
        """Return the requests that were applied after later steps, and these steps, in order."""
        found: list[tuple[int, Request]] = []
        for number in self._numbers():
            answer, request = self.answer(number), self._request(number)
            if answer is None or answer.error or answer.step <= step or request is None:
                continue
            found.append((answer.step, request))
        return tuple(found)

    def take(self, number: int) -> Request | None:
        """Claim a request, so that it cannot be withdrawn any more; None if it was withdrawn.

        Raises:
            OSError: If it cannot be claimed.
        """
        place = self._place(number)
        with suppress(FileNotFoundError):  # withdrawn, or claimed by a process that died
            (place / _REQUEST).rename(place / _TAKEN)
        return self._request(number)

    def reply(self, number: int, answer: Answer) -> None:
        """Write the answer to a request, and sync it to disk.

        Raises:
            OSError: If it cannot be written.
        """
        _write(self._place(number) / _ANSWER, asdict(answer))

    def abandon_after(self, step: int) -> None:
        """Set aside the requests applied after a step that a run is sent back to.

        Raises:
            OSError: If they cannot be renamed.
        """
        for _, request in self.applied_after(step):
            place = self._place(request.number)
            place.rename(place.with_name(f"{place.name}{_ABANDONED}"))

    def _place(self, number: int) -> Path:
        return self._folder / f"{number:06d}"

    def _numbers(self, *, abandoned: bool = False) -> list[int]:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        if abandoned:
            names = [name.removesuffix(_ABANDONED) for name in names]
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def _request(self, number: int) -> Request | None:
        """Return a request, taken or not; None if it was withdrawn, or is being written."""
        place = self._place(number)
        paths = [path for name in (_TAKEN, _REQUEST) if (path := place / name).exists()]
        if not paths:
            return None
        content = _read(paths[0])
        match content.get("action"), _weights(content), content.get("by"), content.get("at"):
            case "set" | "freeze" | "release" as action, dict() as weights, str(by), str(at):
                return Request(number, action, weights, by, at)
            case _:
                expected = "action, weights, by and at"
                invalid = f"{paths[0]}: expected {expected}, found something else"
                return Request(number, "set", invalid=invalid)


def _weights(content: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the weights of a request or an answer, None if there are none."""
    found = content.get("weights")
    if not isinstance(found, dict):
        return None
    weights = cast("dict[str, Any]", found)
    are_numbers = all(type(weight) in (int, float) for weight in weights.values())
    return weights if are_numbers else None


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a user's entry
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content)}\n".encode())


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty, if there is none."""
    try:
        content: object = parse_strictly(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}
