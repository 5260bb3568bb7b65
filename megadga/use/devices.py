"""Devices as a user names them."""

import torch

from megadga.errors import ConfigError


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; None: the accelerator if there is one, else the CPU.

    Raises:
        ConfigError: If there is no such device.
    """
    if name is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = " ".join(str(error).split())[:200]
        expected = "a device of this machine, as cpu or cuda:0"
        raise ConfigError(f"--device: expected {expected}, found {name}: {found}") from error
    return device
