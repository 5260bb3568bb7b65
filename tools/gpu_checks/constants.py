"""What the device reaches: the constants that `megadga plan --constants gpu.json` takes."""

from collections.abc import Iterator

import torch

from megadga.planning.calibration import measure_constants

from .setting import Deadline, Row, Setting


def constants(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield one row with each constant by its name."""
    device = torch.device(setting.device)
    dtype = torch.float32 if setting.device == "cpu" else torch.bfloat16
    named = "cpu" if setting.device == "cpu" else torch.cuda.get_device_name()
    yield {"check": "constants", "device": named, **dict(measure_constants(device, dtype))}
