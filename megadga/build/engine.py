"""From a configuration to a DeepSpeed engine around its model. Knows no data and no mixture."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import deepspeed
from deepspeed.runtime.config import DeepSpeedConfigError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from megadga.build.shape import model_shape
from megadga.config.deepspeed import stable_decay
from megadga.config.models import RunConfig
from megadga.model.llama import Llama
from megadga.train.schedule import WarmupStableDecay


def make_engine(config: RunConfig, settings: dict[str, Any], *, vocabulary_size: int) -> Any:
    """Return an engine around the run's model with its first weights. Collective.

    Under ZeRO-3 the model is partitioned while it is built: no rank holds the whole.

    Args:
        config: The run.
        settings: DeepSpeed's, completed for the number of ranks.
        vocabulary_size: Rows of the embedding.

    Raises:
        ConfigError: If DeepSpeed does not accept its settings.
    """
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    with _refusals_told(config):
        partitioned = deepspeed.zero.Init(config_dict_or_path=settings, enabled=stage == 3)
    with partitioned:
        model = Llama(
            model_shape(config.model),
            vocabulary_size=vocabulary_size,
            sequence_length=config.model.sequence_length,
            seed=config.seed,
            checkpoint_activations=config.model.activation_checkpointing,
        )
    initialize: Any = deepspeed.initialize  # its annotations refuse what its docstring asks for
    with _refusals_told(config):
        engine, *_ = initialize(
            model=model,
            model_parameters=list(model.parameters()),
            config=settings,
            lr_scheduler=_own_schedule(config),
        )
    model.rotary.to(engine.device)  # zero.Init places parameters, and leaves buffers behind
    return engine


def _own_schedule(config: RunConfig) -> Callable[[Optimizer], LambdaLR] | None:
    """Return what makes the schedule that DeepSpeed lacks; None: the run has another, or none."""
    section = stable_decay(config)
    if section is None:
        return None
    schedule = WarmupStableDecay(**section.model_dump())
    # A function: of an object torch saves the attributes, and a run that is made longer would go
    # on with the schedule that it had.
    return lambda optimizer: LambdaLR(optimizer, lambda step: schedule(step))  # noqa: PLW0108


@contextmanager
def _refusals_told(config: RunConfig) -> Generator[None]:
    """Say where the settings are that DeepSpeed does not accept, such as an unknown optimizer."""
    try:
        yield
    except (DeepSpeedConfigError, AssertionError, KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        expected = "settings that DeepSpeed accepts"
        raise config.mistake("deepspeed", expected=expected, found=found) from error
