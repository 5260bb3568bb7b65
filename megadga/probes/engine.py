"""The interface to DeepSpeed: what is used of an engine."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from megadga.errors import UnsupportedEngineError


def limit_waiting(deadline: timedelta) -> None:
    """Set the time-out of every existing process group, including DeepSpeed's.

    DeepSpeed makes groups without one, and those get torch's default and not the one that the
    first group was formed with. Call it again when more have been made.

    Args:
        deadline: After which a collective fails if ranks are missing; above 0.
    """
    for group in distributed_c10d._world.pg_map:
        if dist.get_rank(group) >= 0:  # else this process is not in it
            distributed_c10d._set_pg_timeout(deadline, group)


class Engine(Protocol):
    """The part of ``deepspeed.DeepSpeedEngine`` that training and probes use."""

    module: nn.Module
    device: torch.device
    data_parallel_group: dist.ProcessGroup

    def __call__(self, tokens: Tensor) -> Tensor:
        """Run the module's forward pass inside the engine's bookkeeping."""
        ...

    def backward(self, loss: Tensor) -> Any:
        """Accumulate (and at the boundary reduce) gradients. Collective."""
        ...

    def step(self) -> None:
        """Step the optimizer if an accumulation window ends here. Collective."""
        ...

    def train_batch_size(self) -> int:
        """Return the sequences of one optimizer step, over all ranks."""
        ...

    def train_micro_batch_size_per_gpu(self) -> int:
        """Return the sequences of one forward pass."""
        ...

    def gradient_accumulation_steps(self) -> int:
        """Return the forward passes of one optimizer step."""
        ...

    def get_lr(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        ...

    def fp16_enabled(self) -> bool:
        """Return whether parameters are float16, and losses scaled (see ``loss_scale``)."""
        ...

    def get_global_grad_norm(self) -> float | None:
        """Return the gradient's norm before clipping, if the last step computed one."""
        ...

    def save_checkpoint(self, save_dir: str, tag: str, client_state: dict[str, Any]) -> bool:
        """Write ``save_dir/tag``. Collective."""
        ...

    def load_checkpoint(self, load_dir: str, tag: str) -> tuple[str | None, dict[str, Any]]:
        """Load ``load_dir/tag``; return its path and client state. Collective."""
        ...


def is_partitioned(engine: Any) -> bool:
    """Tell whether each rank keeps only a part of every parameter (ZeRO-3)."""
    return engine.zero_optimization_partition_weights()


def loss_scale(engine: Any) -> float:
    """Return what the engine multiplies losses by in its next backward pass; 1 without fp16.

    With dynamic loss scaling it changes from step to step, never within an accumulation window.
    """
    return float(engine._get_optimizer_loss_scale()) if engine.fp16_enabled() else 1.0


def probe_loss_scale(engine: Any) -> float:
    """Return what probes multiply the mean loss of a micro-batch by; 1 without fp16.

    As much as training does, which divides it by the micro-batches of a step: where its gradients
    do not overflow, those of a probe do not either.
    """
    scale = loss_scale(engine)
    return scale / engine.gradient_accumulation_steps() if engine.fp16_enabled() else scale


def lowest_loss_scale(engine: Any) -> float:
    """Return the loss scale below which the engine does not go; 1 without fp16.

    A loss scale that is not dynamic (``fp16.loss_scale``) is its own lowest.
    """
    if not engine.fp16_enabled():
        return 1.0
    dynamic = engine.dynamic_loss_scale()
    return float(engine.dynamic_loss_scale_args()["min_scale"] if dynamic else engine.loss_scale())


class LowestScaleError(Exception):
    """Gradients have overflowed in fp16 at the lowest loss scale, and DeepSpeed gives up.

    Args:
        scale: The loss scale.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(f"gradients overflow at the lowest loss scale, {scale:g}")
        self.scale = scale


def step_optimizer(engine: Engine) -> None:
    """Step the optimizer at the end of an accumulation window. Collective.

    Raises:
        LowestScaleError: If the gradients of a window have overflowed in fp16 at the lowest loss
            scale (ZeRO 1 to 3; ZeRO 0 leaves out such updates without end); on every rank.
    """
    try:
        engine.step()
    except Exception as error:
        # DeepSpeed's has no class of its own: "Current loss scale already at minimum ...".
        scale = loss_scale(engine)
        if (
            type(error) is Exception
            and engine.fp16_enabled()
            and scale <= lowest_loss_scale(engine)
        ):
            raise LowestScaleError(scale) from error
        raise


def uses_autocast(engine: Any) -> bool:
    """Tell whether DeepSpeed runs the engine's forward pass under ``torch.autocast``."""
    return engine.torch_autocast_enabled()


# Where DeepSpeed's optimizers keep the module's own parameters; the groups of those that they wrap
# hold float32 copies, flattened ones or parts.
_GROUPS: Mapping[str, str] = {
    "DeepSpeedZeroOptimizer": "bit16_groups",
    "DeepSpeedZeroOptimizer_Stage3": "fp16_groups",
    "FP16_UnfusedOptimizer": "fp16_groups",
    "FP16_Optimizer": "fp16_groups",
    "BF16_Optimizer": "bf16_groups",
}


_HOLDER = -1  # among the ids of modules that need a parameter gathered, which are not negative


def optimized_parameters(engine: Any) -> set[nn.Parameter]:
    """Return the parameters of the engine's module that its optimizer holds at present.

    Raises:
        UnsupportedEngineError: If it holds none of them that could be recognised.
    """
    optimizer = engine.optimizer
    attribute = _GROUPS.get(type(optimizer).__name__)
    if attribute is None:
        groups = [group["params"] for group in engine.basic_optimizer.param_groups]
    else:
        groups = getattr(optimizer, attribute)
    held = {parameter for group in groups for parameter in group}
    held.intersection_update(engine.module.parameters())
    if not held:
        raise UnsupportedEngineError(
            "optimizer: expected one that holds parameters of the engine's module, found "
            f"{type(optimizer).__name__}, which holds none that could be recognised"
        )
    return held


def release_gathered(engine: Any) -> None:
    """Release what a backward pass outside the engine has left gathered, as the engine would.

    ZeRO-3 releases a module's parameters when the gradient of its input is known. The input of an
    embedding has none, so what its module holds stays gathered until the end of
    ``engine.backward``, which calls the same function. Nothing to do on other stages.
    """
    if is_partitioned(engine):
        engine.optimizer.parameter_offload.release_backward_leftovers()


@contextmanager
def hold_gathered(engine: Any, module: nn.Module) -> Generator[None]:
    """Keep parameters that ZeRO-3 gathers of a module and its children until the end.

    Inside, the module may be called and differentiated more than once; ZeRO-3 would release
    parameters after the first backward pass. Nothing to do on other stages.
    """
    if not is_partitioned(engine):
        yield
        return
    parameters: list[Any] = list(module.parameters())
    before = {p for p in parameters if p.ds_status is not ZeroParamStatus.NOT_AVAILABLE}
    for parameter in parameters:
        parameter.ds_active_sub_modules.add(_HOLDER)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.ds_active_sub_modules.discard(_HOLDER)
            idle = not parameter.ds_active_sub_modules
            gathered = parameter.ds_status is ZeroParamStatus.AVAILABLE
            if gathered and idle and parameter not in before:
                parameter.partition()


@contextmanager
def eager(engine: Any) -> Generator[None]:
    """Run compiled modules eagerly, as compiled code does not run hooks.

    Nothing is compiled again for the shapes of probes, and nothing that is compiled is lost.
    Functions that a module calls stay compiled, unless the whole module is.
    """
    modules: list[Any] = list(engine.module.modules())
    if engine.is_compiled or any(type(each).__name__ == "OptimizedModule" for each in modules):
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    compiled = {each: each._compiled_call_impl for each in modules if each._compiled_call_impl}
    try:
        for each in compiled:
            each._compiled_call_impl = None
        yield
    finally:
        for each, call in compiled.items():
            each._compiled_call_impl = call


def probe_autocast(engine: Any) -> torch.autocast:
    """Return the autocast context of the engine's forward pass, possibly disabled."""
    enabled = uses_autocast(engine)
    dtype = engine.torch_autocast_dtype() if enabled else None
    return torch.autocast(engine.device.type, dtype=dtype, enabled=enabled)
