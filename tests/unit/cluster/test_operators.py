"""Compiled operators: which a run needs, whether they are there, and locks on them."""

import threading
from pathlib import Path
from typing import Any

import pytest

from megadga.cluster.operators import missing_ops, needed_ops, op_locks, wait_for_ops
from megadga.errors import ConfigError


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
    assert said == [f"waiting for {lock}, while an operator is compiled"]

    releasing = threading.Timer(0.2, lock.unlink)
    releasing.start()
    wait_for_ops(["cpu_adam"], variables, deadline_s=30.0, tell=said.append)
    assert not lock.exists()
    wait_for_ops(["cpu_adam"], variables, deadline_s=0.1, tell=said.append)
    assert len(said) == 2
