"""Registers the plugin with engines whose settings were never tested; notes what it says."""

import json
import sys
from pathlib import Path
from typing import Any

from torch import nn

from megadga.build.ranks import leave
from megadga.errors import UnsupportedEngineError
from megadga.mixing.dga import Dga
from megadga.mixing.static import uniform_weights
from megadga.plugin import DgaPlugin, Sampling
from tests.support.engines import build_engine, settings
from tests.support.models import SmallDecoder
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY, open_sets

UNTESTED: dict[str, dict[str, Any]] = {
    "activation_checkpointing": settings(
        "0", "fp32", activation_checkpointing={"cpu_checkpointing": True}
    ),
    "torch_autocast.dtype": settings(
        "1", "fp32", torch_autocast={"enabled": True, "dtype": "torch.float16"}
    ),
    "zero_optimization.offload_param": settings(
        "3", "fp32", zero_optimization={"stage": 3, "offload_param": {"device": "cpu"}}
    ),
    "zero_optimization.zero_quantized_gradients": settings(
        "3", "fp32", zero_optimization={"stage": 3, "zero_quantized_gradients": True}
    ),
}


def build_module() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH)


def refusal(folder: Path, config: dict[str, Any], *, compiled: bool = False) -> str:
    domains, specific = open_sets(folder)
    engine = build_engine(build_module, config)
    if compiled:
        engine.compile(compiled_autograd_enabled=True)
    scheduler = Dga(uniform_weights(len(domains)), step_size=1.0)
    try:
        DgaPlugin(engine, domains, specific, scheduler, sampling=Sampling(seed=5))
    except UnsupportedEngineError as error:
        return str(error)
    finally:
        engine.destroy()
    return ""


def main(output: str, folder: str) -> None:
    messages = {name: refusal(Path(folder), config) for name, config in UNTESTED.items()}
    messages["engine.compile()"] = refusal(Path(folder), settings("0", "fp32"), compiled=True)
    switched_off = settings("0", "fp32", fp16={"enabled": False})
    messages["nothing"] = refusal(Path(folder), switched_off)
    Path(output).write_text(json.dumps(messages))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
