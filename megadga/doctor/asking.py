"""Asks all hosts at once about themselves. Judges nothing."""

import json
import os
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Self, final

from megadga.cluster.forwarding import forwarded
from megadga.doctor.reach import Reach, python_script
from megadga.doctor.reports import ANSWER, Answers, HostReport, NoReport, Request

_AT_ONCE = 64
"""Hosts that are being connected to at a time: each is a process here."""
_MODULE = "megadga.doctor.gather"


@final
class _Conversation:
    """The side that asks, of a conversation with one host.

    Args:
        host: Its name.
        reach: How its shell is reached.
        timeout_s: After which an answer will not come.
    """

    def __init__(self, host: str, reach: Reach, *, timeout_s: float) -> None:
        self._host, self._timeout_s = host, timeout_s
        script = python_script(Path.cwd(), os.environ.get("PYTHONPATH", ""), ["-m", _MODULE, host])
        self._errors: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115  (until it is over)
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(  # noqa: S603  (the user's own hosts)
            reach.command(host, script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # a Ctrl-C ends it through its input, and it cleans up
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe(self._process.stdout).close()
        self._errors.close()

    def ask(self, question: object) -> Any:
        """Return the answer to a question; None: there is none."""
        out_of_time = threading.Timer(self._timeout_s, self._process.kill)
        out_of_time.start()
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(json.dumps(question) + "\n")
            pipe.flush()
            for line in self._pipe(self._process.stdout):
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
        except OSError:
            pass  # it has ended
        finally:
            out_of_time.cancel()
        return None

    def no_report(self) -> NoReport:
        """Return why there was no answer."""
        with suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            code = self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        killed = code is not None and code < 0
        return NoReport(self._host, None if killed else code, lines[-1] if lines else "")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def ask_hosts(
    hosts: Sequence[str],
    reach: Reach,
    *,
    folder: Path,
    port: int,
    ops: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> Answers:
    """Ask hosts, the first of which is that of rank 0.

    Args:
        hosts: Their names, each once.
        reach: How their shells are reached.
        folder: An existing one that all of them should share.
        port: On which rank 0 will listen.
        ops: DeepSpeed's compiled operators that the run needs.
        timeout_s: Seconds that each host has for an answer, above 0.
    """
    token = secrets.token_hex(4)
    marks = {host: f".doctor-{token}-{index}" for index, host in enumerate(hosts)}
    environment = forwarded(os.environ)
    with ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as pool:

        def ask(host: str) -> tuple[_Conversation, HostReport | NoReport]:
            first = host == hosts[0]
            request = Request(
                folder=str(folder),
                mark=marks[host],
                master=hosts[0],
                port=port if first else None,
                ops=tuple(ops),
                environment=environment,
            )
            conversation = _Conversation(host, reach, timeout_s=timeout_s)
            stack.enter_context(conversation)
            said = conversation.ask(request.as_json())
            if not isinstance(said, dict):
                return conversation, conversation.no_report()
            return conversation, HostReport.of_json(said)  # pyright: ignore[reportUnknownArgumentType]

        asked = list(pool.map(ask, hosts))
        reports = tuple(report for _, report in asked)
        return Answers(reports, _unseen(asked[0], reports, marks))


def _unseen(
    first: tuple[_Conversation, HostReport | NoReport],
    reports: Sequence[HostReport | NoReport],
    marks: dict[str, str],
) -> tuple[str, ...]:
    conversation, own = first
    if isinstance(own, NoReport):
        return ()
    left = {
        report.host: marks[report.host]
        for report in reports
        if isinstance(report, HostReport) and not report.folder_error
    }
    seen: list[str] = conversation.ask(list(left.values())) or []
    return tuple(host for host, mark in left.items() if mark not in seen)
