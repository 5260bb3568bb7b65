"""What each kind of model is in transformers: its configuration and the names of its weights.

Another kind is another function here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megadga.config.models import LlamaModel
from megadga.errors import ResumeError
from megadga.model.naming import hugging_face_config, to_hugging_face
from megadga.prepare.extras import import_extra
from megadga.train.weights import StoredTensor, Weights, check_shapes


@dataclass(frozen=True)
class ExportedModel:
    """A model in transformers' terms.

    Attributes:
        config: Its ``config.json``, without the type of the weights and transformers' version.
        name: Returns what transformers calls one of the run's weights; raises ``KeyError`` if it
            has no such weight.
    """

    config: Mapping[str, Any]
    name: Callable[[str], str]


def exported_model(model: LlamaModel, *, vocabulary_size: int, eod: int) -> ExportedModel:
    """Return what a run's model is in transformers.

    Args:
        model: The run's section ``model``.
        vocabulary_size: Rows of the embedding.
        eod: Id of the token that ends documents.
    """
    config = hugging_face_config(
        model.shape,
        vocabulary_size=vocabulary_size,
        sequence_length=model.sequence_length,
        eod=eod,
    )
    return ExportedModel(config, to_hugging_face)


def rename_weights(model: ExportedModel, weights: Weights, *, place: Path) -> Weights:
    """Return a checkpoint's weights by transformers' names, tied ones once.

    Args:
        model: What the model is in transformers.
        weights: The weights by our names.
        place: The checkpoint, for the error.

    Raises:
        ResumeError: If they are not exactly those of a model that transformers makes.
        ConfigError: If transformers is not installed.
    """
    renamed: dict[StoredTensor, str] = {}
    for own, stored in weights.items():
        try:
            renamed.setdefault(stored, model.name(own))
        except KeyError:
            raise ResumeError(
                f"{place}: {own}: expected a weight that transformers has, found another"
            ) from None
    found = {name: stored for stored, name in renamed.items()}
    check_shapes(found, _shapes(model.config), place=place)
    return found


def _shapes(config: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Return the shapes of the weights that transformers makes, without memory for them."""
    transformers: Any = import_extra("transformers", extra="hf")
    with torch.device("meta"):
        module: nn.Module = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        )
    every = dict(module.named_parameters(remove_duplicate=False))
    once = dict(module.named_parameters())
    return {
        name: tensor.shape
        for name, tensor in module.state_dict().items()
        if name in once or name not in every
    }
