"""What probes find in users' modules and loops, beside float64 gradients of one process."""

import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from megadga.errors import UnsupportedEngineError
from megadga.mixers.probing import Directional, InFlight, LowRank, Probe, Sharded
from megadga.mixers.static import Static, uniform_weights
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.loss import Loss, mean_loss
from tests.support.engines import full_parameters, settings
from tests.support.foreign_models import (
    Experts,
    Foreign,
    Gated,
    Logits,
    Masking,
    Moving,
    Scalar,
    Unlike,
    Unrepeatable,
    Unseen,
    loss_of_logits,
)
from tests.support.probes import METHODS, sized
from tests.support.schedulers import FrozenProbing
from tests.support.shards import open_sets

BUDGET = (5, 6)
Build = Callable[[], nn.Module]


class Loop:
    """A training loop of somebody else's.

    Args:
        folder: Of the sets.
        build: Makes the module.
        method: How alignments are measured, at every step; None: they are not.
        trained: Tells by name which parameters the optimizer gets.
        frozen_too: Makes an optimizer of all parameters, also of those that are frozen at first.
        before: Is done to the module before DeepSpeed sees it.
        more: DeepSpeed's settings, beside the stage and the precision.
    """

    def __init__(
        self,
        folder: Path,
        build: Build,
        method: Probe | None,
        *,
        kind: str = "1",
        precision: str = "fp32",
        loss: Loss = mean_loss,
        trained: Callable[[str], bool] = lambda _: True,
        frozen_too: Callable[[nn.Module], Any] | None = None,
        before: Callable[[nn.Module], None] = lambda _: None,
        **more: Any,
    ) -> None:
        self.build, self.loss = build, loss
        torch.manual_seed(0)
        module = build()
        before(module)
        held = [p for n, p in module.named_parameters() if trained(n) and p.requires_grad]
        options: dict[str, Any] = {"model_parameters": held} if frozen_too is None else {}
        if frozen_too is not None:
            options["optimizer"] = frozen_too(module)
        initialize: Any = deepspeed.initialize
        self.engine, *_ = initialize(
            model=module, config=settings(kind, precision, **more), **options
        )
        self.domains, specific = open_sets(folder)
        num_domains = len(self.domains)
        self.plugin = MixturePlugin(
            self.engine,
            self.domains,
            specific,
            Static(uniform_weights(num_domains)) if method is None else FrozenProbing(num_domains),
            sampling=Sampling(seed=5),
            interval=1,
            probe=sized(method or Sharded(), *BUDGET),
            loss=loss,
        )

    def step(self, **backward: Any) -> np.ndarray[Any, Any]:
        """Train a step and return the alignments that are measured with it."""
        batch = self.plugin.next_batch()
        for tokens in batch.tokens:
            self.engine.backward(self.loss(self.engine, tokens), **backward)
            self.engine.step()
        update = self.plugin.after_step(batch.step).get("update", {})
        return np.array(list(update.get("alignments", {}).values()))

    def error(
        self,
        found: np.ndarray[Any, Any],
        *,
        counted: Callable[[Tensor], Tensor] = torch.ones_like,
        measured: Callable[[str], bool] = lambda _: True,
    ) -> float:
        """Return the largest error of the first update, relative to ``|g_i||v|``. Collective."""
        twin = self.build().double()
        state = {name: each.double() for name, each in full_parameters(self.engine).items()}
        twin.load_state_dict(state, strict=False)
        parameters = [p.requires_grad_() for n, p in twin.named_parameters() if measured(n)]

        def gradient(tokens: Tensor) -> Tensor:
            losses = Foreign.forward(twin, tokens)  # pyright: ignore[reportArgumentType]
            weights = counted(tokens[:, 1:]).double()
            mean = (losses * weights).sum() / weights.sum()
            found = torch.autograd.grad(
                mean, parameters, allow_unused=True, materialize_grads=True
            )
            return torch.cat([each.flatten() for each in found])

        measurement: Any = self.plugin._measurement
        draws = measurement._draws
        drawn = [draws.target(0), *(draws.measured(0, i) for i in range(len(self.domains)))]
        v, *gradients = (
            gradient(torch.from_numpy(each.read(np.arange(len(each))))) for each in drawn
        )
        return max(
            abs(dot - float(g @ v)) / float(g.norm() * v.norm())
            for dot, g in zip(found.tolist(), gradients, strict=True)
        )

    def end(self) -> None:
        self.plugin.close()
        self.engine.destroy()


def complaint(folder: Path, build: Build, method: Probe, **more: Any) -> str:
    """What is said when the plugin is made."""
    try:
        Loop(folder, build, method, **more).end()
    except UnsupportedEngineError as error:
        return str(error)
    return ""


def block(make: Callable[[], nn.Module]) -> Build:
    return lambda: Foreign(make())


def of_experts(folder: Path) -> dict[str, float]:
    """Ranks whose micro-batches use different experts."""
    errors: dict[str, float] = {}
    for name, method in {"sharded": Sharded(), "directional": Directional()}.items():
        loop = Loop(folder, Experts, method, kind="0")
        errors[name] = loop.error(loop.step())
        loop.end()
    return errors


def gradients_of(module: nn.Module) -> list[Tensor]:
    """What backward passes have accumulated: of what the optimizer does not hold, it stays."""
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def of_subset(folder: Path) -> dict[str, Any]:
    """An optimizer that holds some of the parameters that require a gradient."""
    found: dict[str, Any] = {}

    def in_block(name: str) -> bool:
        return name.startswith("block")

    for name in ("sharded", "directional", "directional-low-rank"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            loop = Loop(folder, block(Gated), METHODS[name], kind="2", trained=in_block)
        error = loop.error(loop.step(), measured=in_block)
        accumulated = gradients_of(loop.engine.module)
        assert loop.plugin._measurement is not None
        loop.plugin._measurement.measure(1)
        kept = all(map(torch.equal, accumulated, gradients_of(loop.engine.module)))
        messages = [str(each.message) for each in told if "alignments leave out" in str(each)]
        found[name] = {"error": error, "told": messages, "kept": kept}
        loop.end()
    return found


def of_thawed(folder: Path, method: Probe) -> list[float]:
    """Parameters that are unfrozen, and others that are frozen, after the plugin was made."""
    errors: list[float] = []
    for late in ("head", "embedding"):

        def freeze(module: nn.Module, late: str = late) -> None:
            module.get_submodule(late).requires_grad_(requires_grad=False)

        loop = Loop(
            folder,
            block(Gated),
            method,
            kind="0",
            before=freeze,
            frozen_too=lambda module: torch.optim.AdamW(module.parameters(), lr=1e-3),
            zero_allow_untested_optimizer=True,
        )
        module = loop.engine.module
        module.get_submodule(late).requires_grad_(requires_grad=True)
        module.get_submodule("position").requires_grad_(requires_grad=False)
        found = loop.step()
        errors.append(loop.error(found, measured=lambda name: not name.startswith("position")))
        loop.end()
    return errors


def state_of(module: nn.Module) -> list[str]:
    """All that a forward pass of ``Moving`` moves."""
    moving: Any = module.get_submodule("block")
    numbers = [repr(buffer.tolist()) for buffer in module.buffers()]
    held = moving.generator.get_state()
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state(), held)  # noqa: NPY002
    return [*numbers, *map(str, map(_digest, states))]


def _digest(state: Any) -> Any:
    if isinstance(state, Tensor):
        return hash(state.numpy().tobytes())
    return repr(state)


def of_moving(folder: Path) -> dict[str, bool]:
    """Whether buffers and random states are as they would be without probes."""
    same: dict[str, bool] = {}
    for name, method in METHODS.items():
        states: list[list[str]] = []
        for measured in (None, method):
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
            loop = Loop(folder, block(Moving), measured)
            torch.manual_seed(1)
            module = loop.engine.module
            modes = [each.training for each in module.modules()]
            loop.step()
            assert modes == [each.training for each in module.modules()]
            states.append(state_of(module))
            loop.end()
        same[name] = states[0] == states[1]
    return same


def of_scales(folder: Path) -> dict[str, list[float]]:
    """In flight, with losses that the loop has scaled by itself."""
    found: dict[str, list[float]] = {}
    modules: dict[str, tuple[Build, Loss]] = {
        "a loss a token": (block(Gated), mean_loss),
        "scalar": (lambda: Scalar(Gated()), mean_loss),
        "logits": (lambda: Logits(Gated()), loss_of_logits),
    }
    for name, (build, loss) in modules.items():
        alignments: list[np.ndarray[Any, Any]] = []
        for backward in ({}, {"scale_wrt_gas": False}):
            loop = Loop(folder, build, InFlight(), loss=loss)
            alignments.append(loop.step(**backward))
            loop.end()
        found[name] = (alignments[1] / alignments[0]).tolist()
    return found


def of_masks(folder: Path) -> dict[str, dict[str, float]]:
    """Losses that leave out targets by themselves."""

    def counted(targets: Tensor) -> Tensor:
        return targets % 3 == 0

    errors: dict[str, dict[str, float]] = {}
    methods: dict[str, Probe] = {
        "sharded": Sharded(),
        "directional": Directional(),
        "low rank": Directional(direction=LowRank(rank=5)),
    }
    for returns in ("mean", "mask", "sums", "sum"):
        errors[returns] = {}
        for name, method in methods.items():
            loop = Loop(folder, lambda r=returns: Masking(r), method)
            batch = loop.plugin.next_batch()
            update = loop.plugin.after_step(batch.step)["update"]
            found = np.array(list(update["alignments"].values()))
            errors[returns][name] = loop.error(found, counted=counted)
            loop.end()
    return errors


def of_refusals(folder: Path) -> dict[str, str]:
    """What is said at construction, before any step."""
    by_hand: Build = lambda: Masking("by hand")  # noqa: E731
    told = {
        "masked by hand, sharded": complaint(folder, by_hand, Sharded()),
        "masked by hand, directional": complaint(folder, by_hand, Directional()),
        "masked, in flight": complaint(folder, lambda: Masking("mask"), InFlight()),
        "sequences that mix": complaint(folder, block(Unlike), Directional()),
        "unrepeatable": complaint(folder, block(Unrepeatable), Directional()),
        "unrepeatable, sharded": complaint(folder, block(Unrepeatable), Sharded()),
    }
    for precision in ("fp32", "bf16"):
        told[f"unseen, {precision}"] = complaint(
            folder, block(Unseen), Directional(), precision=precision
        )
    return told


def of_released(folder: Path, kinds: Sequence[str]) -> dict[str, float]:
    """A parameter ahead of a child, with parameters that ZeRO-3 releases and gathers again."""
    errors: dict[str, float] = {}
    for kind in kinds:
        for name in ("sharded", "directional"):
            loop = Loop(folder, block(Gated), METHODS[name], kind=kind)
            errors[f"{kind} {name}"] = loop.error(loop.step())
            loop.end()
    for name in ("directional-low-rank", "in_flight"):
        found: list[np.ndarray[Any, Any]] = []
        for kind in ("1", *kinds):
            loop = Loop(folder, block(Gated), METHODS[name], kind=kind)
            found.append(loop.step())
            loop.end()
        for kind, each in zip(kinds, found[1:], strict=True):
            errors[f"{kind} {name}"] = float(np.abs(each / found[0] - 1.0).max())
    return errors


def results_of(folder: Path, kind: str) -> dict[str, Any]:
    """Everything under one family of stages. Collective."""
    if kind == "3":
        return {"released": of_released(folder, ("3", "3-released"))}
    return {
        "experts": of_experts(folder),
        "subset": of_subset(folder),
        "thawed": {n: of_thawed(folder, METHODS[n]) for n in ("sharded", "directional")},
        "moving": of_moving(folder),
        "scales": of_scales(folder),
        "masks": of_masks(folder),
        "refusals": of_refusals(folder),
    }
