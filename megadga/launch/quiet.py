"""Keeps what libraries say at the start of a run to what a reader needs, said by one rank."""

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Generator, Mapping
from typing import TextIO, final

from megadga.console import shows_bars

VERBOSE = "MEGADGA_VERBOSE"
"""Variable that, set to 1, lets every rank's libraries say all that they have to say."""


_LOGGERS = ("DeepSpeed", "torch.distributed")


_OF_LIBRARIES = r"(torch|deepspeed|transformers)\b"
"""Modules whose deprecations are not its user's."""


_NOTHING_TO_DO = (
    # A run says what it runs on.
    "Setting accelerator to CPU",
    # DeepSpeed itself asks for it, of every schedule.
    "Attempting to get learning rate from scheduler before it has started",
)
"""How DeepSpeed's warnings begin that are no fault of its user's."""


_PRINTED = re.compile(r"DeepSpeed \S+ built successfully$")
"""Lines that DeepSpeed prints, and nobody needs."""


def quieten(environment: Mapping[str, str], *, rank: int) -> None:
    """Let ranks but the first log errors alone, and none warn of what its user cannot change.

    Called before the libraries are imported.

    Args:
        environment: May say that everything is wanted.
        rank: The number of this rank.
    """
    if _is_verbose(environment):
        return
    if rank > 0 or not shows_bars():  # of downloads, and of weights that are read
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=_OF_LIBRARIES)
    if rank == 0:
        logging.getLogger("DeepSpeed").addFilter(_is_of_use)
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|deepspeed)\b")
    for name in _LOGGERS:  # a filter stays when the library sets its logger up
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    if "TORCH_CPP_LOG_LEVEL" not in environment:
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"


@contextlib.contextmanager
def library_prints(environment: Mapping[str, str], *, rank: int) -> Generator[None]:
    """Send what is printed on standard output meanwhile to standard error, on rank 0 alone.

    Standard output is for a command's results. What other ranks print goes nowhere.
    """
    if _is_verbose(environment):
        yield
        return
    stream = _Prints(sys.stderr) if rank == 0 else io.StringIO()
    with contextlib.redirect_stdout(stream):
        yield


@final
class _Prints(io.TextIOBase):
    """Passes on complete lines that are of use.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Take a text of any number of lines."""
        *lines, self._begun = f"{self._begun}{text}".split("\n")
        for line in lines:
            if not _PRINTED.match(line):
                self._stream.write(f"{line}\n")
        return len(text)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOTHING_TO_DO)


def _is_verbose(environment: Mapping[str, str]) -> bool:
    return environment.get(VERBOSE) == "1"
