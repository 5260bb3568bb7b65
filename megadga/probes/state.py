"""Saves and restores buffers, modes and random states, so that passes leave no trace."""

import random
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megadga.probes.engine import Engine, probe_autocast


def random_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of the CPU's generator, and of the device's if that is another."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return (torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device))


@contextmanager
def from_states(states: tuple[Tensor, ...], device: torch.device) -> Generator[None]:
    """Use given random states; restore the previous ones at the end."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        torch.set_rng_state(states[0])
        if devices:
            torch.get_device_module(device).set_rng_state(states[1], device)
        yield


@contextmanager
def preserved(module: nn.Module, *, restart: Callable[[], None] = lambda: None) -> Generator[None]:
    """Restore, at the end, what forward and backward passes of a module may change.

    Its buffers (running statistics, counters), each submodule's mode (``training``), and every
    random state: Python's, numpy's, torch's of the CPU and of the module's devices, and those of
    generators that submodules hold as attributes.

    Args:
        module: What the passes go through.
        restart: Sets random states to where they shall begin (see ``random_states_of``).
    """
    with ExitStack() as stack:
        stack.callback(random_states_of(module))
        restart()
        for owner in module.modules():
            stack.callback(_put_back, owner, owner.training, _copies(owner))
        yield


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Switch a module to evaluation mode; restore each submodule's mode at the end."""
    modes = [(owner, owner.training) for owner in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for owner, training in modes:
            owner.training = training


def token_losses(engine: Engine, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes a module's losses in the engine's arithmetic, without any trace.

    There are no gradients and no dropout, and counters, schedule and optimizer do not see it.

    Args:
        engine: A DeepSpeed engine.
        module: Its own, and then a call is collective under ZeRO-3; or another one on its device.
            From tokens ``(b, S + 1)`` to one loss a token, ``(b, S)``.
    """

    def losses(tokens: Tensor) -> Tensor:
        with preserved(module), evaluating(module), torch.no_grad(), probe_autocast(engine):
            return module(tokens)

    return losses


def seed_everything(seed: int) -> None:
    """Seed every global generator that a module may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _copies(owner: nn.Module) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Return each buffer of a module with a copy of what is in it."""
    return {
        name: (buffer, None if buffer is None else buffer.detach().clone())
        for name, buffer in _registered(owner).items()
    }


def _registered(owner: nn.Module) -> dict[str, Tensor | None]:
    """Return where a module keeps its buffers: by name alone, ``None`` among them."""
    return vars(owner)["_buffers"]


def _put_back(
    owner: nn.Module, training: bool, copies: dict[str, tuple[Tensor | None, Tensor | None]]
) -> None:
    owner.training = training
    registered = _registered(owner)
    registered.clear()
    for name, (buffer, copy) in copies.items():
        if buffer is not None and copy is not None:
            # By ``data``: a graph that keeps the buffer finds it as it was, so it may be used.
            buffer.data.copy_(copy)
        registered[name] = buffer


def random_states_of(module: nn.Module) -> Callable[[], None]:
    """Return a function that restores every present random state."""
    devices = {parameter.device for parameter in module.parameters()} - {torch.device("cpu")}
    devices = {device for device in devices if device.type != "meta"}
    accelerators = {d: torch.get_device_module(d).get_rng_state(d) for d in devices}
    python, of_torch = random.getstate(), torch.get_rng_state()
    of_numpy: Any = np.random.get_state()  # noqa: NPY002  (what a module may draw from)
    held = [
        restore
        for owner in module.modules()
        for value in vars(owner).values()
        if (restore := _state_of(value)) is not None
    ]

    def set_back() -> None:
        random.setstate(python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
        for device, state in accelerators.items():
            torch.get_device_module(device).set_rng_state(state, device)
        for restore in held:
            restore()

    return set_back


def _state_of(value: object) -> Callable[[], None] | None:
    """Return a function that restores a generator's state; None if it is not one."""
    match value:
        case torch.Generator():
            of_torch = value.get_state()
            return lambda: value.set_state(of_torch) and None
        case random.Random():
            of_python = value.getstate()
            return lambda: value.setstate(of_python)
        case np.random.RandomState():
            legacy: Any = value.get_state()
            return lambda: value.set_state(legacy)
        case np.random.Generator():
            bits = value.bit_generator
            of_numpy = bits.state
            return lambda: setattr(bits, "state", of_numpy)
        case _:
            return None
