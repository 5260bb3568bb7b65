"""Compiled operators: which a run needs, whether they are there, and locks on them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from megadga.errors import ConfigError
from megadga.launch.operators import (
    lasting_locks,
    missing_ops,
    needed_ops,
    op_locks,
    remove_abandoned_locks,
    remove_own_locks,
    wait_for_ops,
)


def test_operators_are_looked_for_where_torch_would_keep_them(tmp_path: Path) -> None:
    (tmp_path / "cpu_adam").mkdir()
    (tmp_path / "cpu_adam" / "cpu_adam.so").touch()
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    names = ("cpu_adam", "fused_adam")
    assert missing_ops(names, variables) == ("fused_adam",)
    assert op_locks(names, variables) == ()
    (tmp_path / "cpu_adam" / "lock").touch()
    assert op_locks(names, variables) == (str(tmp_path / "cpu_adam" / "lock"),)


@pytest.mark.parametrize(
    ("params", "zero", "ops"),
    [
        ({}, {}, ("fused_adam",)),
        ({}, {"offload_optimizer": {"device": "cpu"}}, ("cpu_adam",)),
        ({"torch_adam": True}, {"offload_optimizer": {"device": "cpu"}}, ()),
    ],
)
def test_an_optimizer_needs_its_operators(
    params: dict[str, Any], zero: dict[str, Any], ops: tuple[str, ...]
) -> None:
    optimizer = {"type": "AdamW", "params": params}
    assert needed_ops({"optimizer": optimizer, "zero_optimization": zero}) == ops
    assert needed_ops({"optimizer": {"type": "SGD"}}) == ()


def test_a_lock_is_waited_for_and_named_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "cpu_adam").mkdir()
    lock = tmp_path / "cpu_adam" / "lock"
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    said: list[str] = []
    lock.touch()
    with pytest.raises(ConfigError, match="expected no lock on a compiled operator") as refusal:
        wait_for_ops(["cpu_adam"], variables, deadline_s=0.1, tell=said.append)
    assert str(refusal.value).startswith(f"{lock}: ")
    (line,) = said
    assert line.startswith(
        f"waiting for {lock}, at most 0.1 s, while an operator is compiled; no "
    )
    assert line.endswith(f": rm {lock}")

    releasing = threading.Timer(0.2, lock.unlink)
    releasing.start()
    wait_for_ops(["cpu_adam"], variables, deadline_s=30.0, tell=said.append)
    assert not lock.exists()
    wait_for_ops(["cpu_adam"], variables, deadline_s=0.1, tell=said.append)
    assert said == [line]  # a lock that is gone so soon is that of a load


def test_a_lock_that_goes_while_one_looks_does_not_last(tmp_path: Path) -> None:
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    goes, stays = (tmp_path / name / "lock" for name in ("cpu_adam", "fused_adam"))
    for lock in (goes, stays):
        os.close(take(lock))
    releasing = threading.Timer(0.2, goes.unlink)
    releasing.start()
    lasting = lasting_locks(["cpu_adam", "fused_adam"], variables, over_s=1.0)
    assert lasting == (str(stays),)
    assert lasting_locks(["cpu_adam"], variables, over_s=60.0) == ()  # at once


def test_an_old_lock_that_nobody_holds_does_not_stay(tmp_path: Path) -> None:
    lock = tmp_path / "cpu_adam" / "lock"
    os.close(take(lock))
    an_hour_ago = time.time() - 3600.0
    os.utime(lock, (an_hour_ago, an_hour_ago))
    said: list[str] = []

    wait_for_ops(
        ["cpu_adam"], {"TORCH_EXTENSIONS_DIR": str(tmp_path)}, deadline_s=5.0, tell=said.append
    )

    assert not lock.exists()
    assert said[-1] == f"removed {lock}, which a process that was killed has left"


def take(lock: Path) -> int:
    """Take a lock as torch does, which has it open until it lets go of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_CREAT | os.O_EXCL)


def test_a_lock_that_somebody_here_holds_has_no_remedy_but_to_wait(tmp_path: Path) -> None:
    descriptor = take(tmp_path / "cpu_adam" / "lock")
    said: list[str] = []
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    with pytest.raises(ConfigError):
        wait_for_ops(["cpu_adam"], variables, deadline_s=0.1, tell=said.append)
    os.close(descriptor)
    assert said == [
        f"waiting for {tmp_path}/cpu_adam/lock, at most 0.1 s, while an operator is compiled"
    ]


@pytest.mark.parametrize("own", [True, False])
def test_a_process_removes_the_locks_that_it_holds_and_no_others(
    tmp_path: Path, *, own: bool
) -> None:
    variables = {"TORCH_EXTENSIONS_DIR" if own else "HOME": str(tmp_path)}
    root = tmp_path if own else tmp_path / ".cache/torch_extensions/py311_cpu"
    mine, other = root / "cpu_adam" / "lock", root / "fused_adam" / "lock"
    descriptor = take(mine)
    os.close(take(other))
    program = f"from megadga.launch.operators import remove_own_locks as r; r({variables!r})"
    subprocess.run([sys.executable, "-c", program], env=os.environ | variables, check=True)
    assert mine.exists()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(tmp_path))
        remove_own_locks(variables)
    os.close(descriptor)
    assert not mine.exists()
    assert other.exists()


def test_locks_that_ranks_have_left_are_removed_once_nobody_holds_them(tmp_path: Path) -> None:
    variables = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    old, left, held = (tmp_path / name / "lock" for name in ("a", "b", "c"))
    for lock in (old, left):
        os.close(take(lock))
    os.utime(old, (1.0, 1.0))
    descriptor = take(held)
    started = time.time() - 60.0
    assert remove_abandoned_locks(variables, since=started) == (left,)
    os.close(descriptor)
    assert [lock.exists() for lock in (old, left, held)] == [True, False, True]
    assert remove_abandoned_locks(variables, since=started) == (held,)
