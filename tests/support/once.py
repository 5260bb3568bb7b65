"""Work that several test files look at, done once however many processes run the tests."""

import fcntl
import json
import os
from collections.abc import Callable
from typing import Any

import pytest


def once(factory: pytest.TempPathFactory, name: str, work: Callable[[], Any]) -> Any:
    """Return the work's result, as JSON keeps it; the first process that asks does it.

    Others wait, and one of them tries again if it fails.
    """
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    result = shared / f"{name}.json"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            result.write_text(json.dumps(work()))
        return json.loads(result.read_text())
