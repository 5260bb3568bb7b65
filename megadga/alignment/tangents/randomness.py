"""The states that random numbers are drawn from, to draw the same ones again. Knows no module."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


def random_states(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of the CPU's generator, and of the device's if that is another."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return (torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device))


@contextmanager
def from_states(states: tuple[Tensor, ...], device: torch.device) -> Generator[None]:
    """Draw random numbers from given states; afterwards go on as if none had been drawn."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        torch.set_rng_state(states[0])
        if devices:
            torch.get_device_module(device).set_rng_state(states[1], device)
        yield
