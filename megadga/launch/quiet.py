"""Keeps what libraries say at the start of a run to what a reader needs, said by one rank."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Generator, Mapping

VERBOSE = "MEGADGA_VERBOSE"
"""Variable that, set to 1, lets every rank's libraries say all that they have to say."""


_LOGGERS = ("DeepSpeed", "torch.distributed")


def quieten(environment: Mapping[str, str], *, rank: int) -> None:
    """Let ranks but the first log errors alone, and none warn of what libraries deprecate.

    Called before the libraries are imported.

    Args:
        environment: May say that everything is wanted.
        rank: The number of this rank.
    """
    if _is_verbose(environment):
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)\b")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|deepspeed)\b")
    if rank == 0:
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|deepspeed)\b")
    for name in _LOGGERS:  # a filter stays when the library sets its logger up
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    if "TORCH_CPP_LOG_LEVEL" not in environment:
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"


@contextlib.contextmanager
def prints_of_first_rank(environment: Mapping[str, str], *, rank: int) -> Generator[None]:
    """Have what ranks but the first print on standard output meanwhile go nowhere."""
    if rank == 0 or _is_verbose(environment):
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _is_verbose(environment: Mapping[str, str]) -> bool:
    return environment.get(VERBOSE) == "1"
