"""Drops the gradients of an accumulation window without an update of the parameters."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from megadga.errors import UnsupportedEngineError

# Wrappers that change parameters and moments through `step` of the optimizer in them alone, and
# write parameters as rounded copies of what that optimizer holds.
_WRAPPERS = (
    "BF16_Optimizer",
    "DeepSpeedZeroOptimizer",
    "DeepSpeedZeroOptimizer_Stage3",
    "FP16_Optimizer",
    "FP16_UnfusedOptimizer",
)


# Optimizers whose `step` does all that they do. Muon's momentum is kept by ZeRO, Lamb and the
# optimizers that compress communication are stepped in other ways.
_OPTIMIZERS = (
    *("Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"),
    *("DeepSpeedCPUAdagrad", "DeepSpeedCPUAdam", "DeepSpeedCPULion", "FusedAdam", "FusedLion"),
)


def check_discarding(engine: Any) -> None:
    """Refuse an engine on which `discard_update` is not known to be exact.

    Args:
        engine: A ``deepspeed.DeepSpeedEngine``.

    Raises:
        UnsupportedEngineError: Naming what is not supported.
    """
    inner, outer = engine.basic_optimizer, engine.optimizer
    if type(inner).__name__ not in _OPTIMIZERS:
        raise UnsupportedEngineError(
            f"leaving out a batch: expected an optimizer among {', '.join(_OPTIMIZERS)}, "
            f"found {type(inner).__name__}"
        )
    if outer is not inner and type(outer).__name__ not in _WRAPPERS:
        raise UnsupportedEngineError(
            f"leaving out a batch: expected ZeRO 0 to 3 in fp32 or bf16, "
            f"found {type(outer).__name__}"
        )
    if engine.fp16_enabled():
        raise UnsupportedEngineError(
            "leaving out a batch: expected fp32 or bf16, found fp16, whose loss scale counts it"
        )
    if engine.zenflow:
        raise UnsupportedEngineError("leaving out a batch: expected no zenflow, found it")
    if engine.torch_autocast_z0_gradscaler or getattr(outer, "torch_autocast_gradscaler", None):
        raise UnsupportedEngineError("leaving out a batch: expected no loss scaling, found it")


def discard_update(engine: Any) -> None:
    """End an accumulation window without an update. Collective.

    In place of ``engine.step()``. DeepSpeed reduces, measures and frees the gradients as in any
    step; only the optimizer inside and the schedule do not step: parameters, moments, the
    optimizer's step counts and the learning rate keep their bits. The engine counts the step
    among its ``skipped_steps``.
    """
    skipped = engine.skipped_steps
    with _standing_still(engine.basic_optimizer), _without_schedule(engine):
        engine.step()
    engine.skipped_steps = skipped + 1  # DeepSpeed counts those whose norm is not finite itself


@contextmanager
def _standing_still(optimizer: Any) -> Generator[None]:
    """Make an optimizer's ``step`` do nothing; torch's schedules have wrapped it already."""
    own = vars(optimizer).get("step")
    optimizer.step = _do_nothing
    try:
        yield
    finally:
        if own is None:
            del optimizer.step
        else:
            optimizer.step = own


def _do_nothing(*_: Any, **__: Any) -> None:
    """Take the place of an optimizer's ``step``."""


@contextmanager
def _without_schedule(engine: Any) -> Generator[None]:
    schedule = engine.lr_scheduler
    engine.lr_scheduler = None
    try:
        yield
    finally:
        engine.lr_scheduler = schedule
