"""Builds the model, its learning-rate schedule, the DeepSpeed engine, reference models."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.config import DeepSpeedConfigError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from megadga.config.deepspeed import stable_decay
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.errors import ResumeError
from megadga.model.llama import Llama
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import Engine
from megadga.probes.state import token_losses
from megadga.probes.supported import check_data_parallel
from megadga.run_folder.checkpoints import find_damage
from megadga.train.data import RunData
from megadga.train.initial import load_initial
from megadga.train.models import model_errors
from megadga.train.saved import SavedRun
from megadga.train.saved_models import build_decoder, copy_checkpoint
from megadga.train.trained import open_initial


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up, a plateau, and a linear decay over the last steps (WSD, arXiv 2404.06395).

    Args:
        total_num_steps: Steps of the whole schedule, at least 1.
        warmup_num_steps: Steps until the plateau, at least 0.
        decay_num_steps: Steps from the plateau to the end, at least 0.
        warmup_min_ratio: Factor of the first step if there is a warm-up, in [0, 1].
        min_ratio: Factor that the decay ends with, in [0, 1].
    """

    total_num_steps: int
    warmup_num_steps: int
    decay_num_steps: int
    warmup_min_ratio: float = 0.0
    min_ratio: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the learning-rate factor after ``step`` completed steps, in [0, 1]."""
        if step < self.warmup_num_steps:
            risen = step / self.warmup_num_steps
            return self.warmup_min_ratio + (1.0 - self.warmup_min_ratio) * risen
        left = max(self.total_num_steps - step, 0)
        if left < self.decay_num_steps:
            return self.min_ratio + (1.0 - self.min_ratio) * left / self.decay_num_steps
        return 1.0


def make_engine(
    config: RunConfig, settings: dict[str, Any], data: RunData, *, is_new: bool
) -> Any:
    """Return an engine around the run's newly built model. Collective.

    Under ZeRO-3 the model is partitioned during construction, so that no rank holds all of it.

    Args:
        config: The run.
        settings: DeepSpeed settings, completed for the number of ranks.
        data: Its data, which has the tokenizer and the number of rows of the embedding.
        is_new: Whether the run starts here, with the weights that the configuration names; False:
            a checkpoint's are loaded later.

    Raises:
        ConfigError: If DeepSpeed rejects its settings, or weights cannot be loaded.
    """
    partitioned = settings.get("zero_optimization", {}).get("stage", 0) == 3
    model = _build_model(config, settings if partitioned else None, data, is_new=is_new)
    if is_new and (initial := open_initial(config, data.tokenizer)) is not None:
        load_initial(config, initial, model, partitioned=partitioned)
    initialize: Any = deepspeed.initialize  # its annotations contradict its documentation
    with _deepspeed_errors(config):
        engine, *_ = initialize(
            model=model,
            model_parameters=list(model.parameters()),
            config=settings,
            lr_scheduler=_own_schedule(config),
        )
    _move_buffers(model, engine.device)
    if isinstance(model, Llama) and isinstance(config.model, LlamaModel) and config.model.compile:
        if partitioned:  # by hooks inside of blocks
            model.compile_functions()
        else:
            model.compile_blocks()
    check_data_parallel(engine)
    return engine


def _build_model(
    config: RunConfig, partitioning: dict[str, Any] | None, data: RunData, *, is_new: bool
) -> nn.Module:
    """Build the model; ``partitioning`` has DeepSpeed's settings if the ranks divide it."""
    match config.model:
        case LlamaModel() as section:
            with _deepspeed_errors(config):
                init = deepspeed.zero.Init(
                    config_dict_or_path=partitioning, enabled=partitioning is not None
                )
            with init:
                return Llama(
                    section.shape,
                    vocabulary_size=data.vocabulary_size,
                    sequence_length=section.sequence_length,
                    seed=config.seed,
                    checkpoint_activations=section.activation_checkpointing,
                )
        case HuggingFaceModel():
            assert data.architecture is not None
            with _deepspeed_errors(config), model_errors(config):
                return data.architecture.build(
                    vocabulary_size=data.vocabulary_size,
                    seed=config.seed,
                    deepspeed=partitioning,
                    pretrained=is_new,
                )


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    """Move buffers to a device: zero.Init moves parameters alone."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _own_schedule(config: RunConfig) -> Callable[[Optimizer], LambdaLR] | None:
    """Return a factory for the schedule that DeepSpeed lacks, None if the run does not use it."""
    section = stable_decay(config)
    if section is None:
        return None
    schedule = WarmupStableDecay(**section.model_dump())
    # A function: torch saves the attributes of callable objects, and a run with more steps would
    # resume with the old schedule.
    return lambda optimizer: LambdaLR(optimizer, lambda step: schedule(step))  # noqa: PLW0108


@contextmanager
def _deepspeed_errors(config: RunConfig) -> Generator[None]:
    """Convert DeepSpeed's errors about its settings to ``ConfigError`` with their location."""
    try:
        yield
    except (DeepSpeedConfigError, AssertionError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        expected = "settings that DeepSpeed accepts"
        raise config.invalid("deepspeed", expected=expected, found=found) from error


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_reference(
    config: RunConfig,
    reference: SavedRun,
    engine: Engine,
    *,
    collective: ProcessGroupCollective,
) -> Callable[[Tensor], Tensor]:
    """Return a function that computes a reference model's token losses. Collective.

    Rank 0 reads the checkpoint in float32 and broadcasts the weights one by one. Memory: a full
    copy in the run's precision on every rank, on rank 0 in float32 while reading.

    Args:
        config: The run that uses the reference.
        reference: The reference model.
        engine: The run's engine, whose device is used.
        collective: The ranks.

    Raises:
        ConfigError: If the checkpoint cannot be read or does not fit the model; on every rank.
    """
    model = build_decoder(reference)
    failure = [None if collective.rank > 0 else _read_into(model, reference)]
    dist.broadcast_object_list(failure, group=engine.data_parallel_group, group_src=0)
    if failure[0] is not None:
        expected = "a checkpoint of the model in its config.yaml"
        raise config.invalid("mixing", "reference", expected=expected, found=failure[0])
    model.requires_grad_(requires_grad=False)
    model.to(engine.device, _DTYPES.get(config.training.precision))
    for parameter in model.parameters():
        (first,) = collective.tensors_of_first_rank([parameter.detach()])
        parameter.copy_(first)
    return token_losses(engine, model)


def _read_into(model: nn.Module, reference: SavedRun) -> str | None:
    """Load a checkpoint's weights; return a description of the problem if that fails."""
    damage = find_damage(reference.checkpoint, reference.header)
    if damage is not None:
        return damage
    try:
        copy_checkpoint(reference, model)
    except ResumeError as error:
        return str(error)
    return None
