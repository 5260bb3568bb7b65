"""From a checkpoint to the frozen model that losses are compared with. Knows no mixture."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import PickleError
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from megadga.build.reference import RunReference
from megadga.build.shape import model_shape
from megadga.config.models import RunConfig
from megadga.model.llama import Llama
from megadga.train.header import find_damage
from megadga.zero.alone import losses_alone
from megadga.zero.collective import ProcessGroupCollective
from megadga.zero.engine import Engine
from megadga.zero.weights_only import weights_only_loading

_WHOLE = "mp_rank_00_model_states.pt"
"""Where DeepSpeed keeps a model that is not cut, as under ZeRO-0."""


def load_reference(
    config: RunConfig,
    reference: RunReference,
    engine: Engine,
    *,
    collective: ProcessGroupCollective,
) -> Callable[[Tensor], Tensor]:
    """Return what computes a reference model's losses, one a token, without gradients. Collective.

    The first rank reads the checkpoint, in float32, and hands the weights to the others one after
    another. Memory: on every rank a whole copy in the run's precision, on the first one's host the
    checkpoint as well while it is read.

    Args:
        config: The run that compares itself with it.
        reference: The model.
        engine: Trains, and says where the model is to be.
        collective: The ranks.

    Raises:
        ConfigError: If the checkpoint cannot be read, or is of another model; on every rank.
    """
    model = Llama(
        model_shape(reference.model),
        vocabulary_size=reference.vocabulary_size,
        sequence_length=reference.model.sequence_length,
        seed=0,
    )
    failure = [None if collective.rank > 0 else _read_into(model, reference)]
    dist.broadcast_object_list(failure, group=engine.data_parallel_group, group_src=0)
    if failure[0] is not None:
        expected = "a checkpoint of the model in its config.yaml"
        raise config.mistake("mixing", "reference", expected=expected, found=failure[0])
    model.requires_grad_(requires_grad=False)
    model.to(engine.device, torch.bfloat16 if config.training.precision == "bf16" else None)
    for parameter in model.parameters():
        (first,) = collective.tensors_of_first_rank([parameter.detach()])
        parameter.copy_(first)
    return losses_alone(engine, model)


def _read_into(model: Llama, reference: RunReference) -> str | None:
    """Load a checkpoint's weights; return what is wrong with it, if anything."""
    checkpoint = reference.checkpoint
    damage = find_damage(checkpoint, reference.header)
    if damage is not None:
        return damage
    try:
        with weights_only_loading():
            state = _whole(checkpoint) if reference.zero_stage == 0 else _put_together(checkpoint)
        model.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, PickleError) as error:
        return f"{checkpoint}: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _whole(checkpoint: Path) -> dict[str, Tensor]:
    states: Any = torch.load(checkpoint / _WHOLE, map_location="cpu", weights_only=True)
    return states["module"]


def _put_together(checkpoint: Path) -> dict[str, Tensor]:
    # It tells all that it does on standard output, which is not ours to write on.
    with contextlib.redirect_stdout(sys.stderr):
        states: Any = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.parent), checkpoint.name
        )
    return states
