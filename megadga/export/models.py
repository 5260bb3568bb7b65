"""What each kind of model is in transformers: its configuration and the names of its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.errors import ResumeError
from megadga.model.naming import hugging_face_config, to_hugging_face
from megadga.prepare.extras import import_extra
from megadga.train.models import model_errors, read_architecture
from megadga.train.weights import StoredTensor, Weights, check_shapes

_WRAPPED = "model."
"""Prefix of the names that ``HuggingFaceDecoder`` has for transformers' own."""


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


def exported_model(config: RunConfig, *, num_tokens: int, eod: int) -> ExportedModel:
    """Return what a run's model is in transformers.

    Args:
        config: The run.
        num_tokens: Of its tokenizer.
        eod: Id of the token that ends documents.

    Raises:
        ConfigError: If the configuration of a model of transformers cannot be read.
    """
    match config.model:
        case LlamaModel() as section:
            values = hugging_face_config(
                section.shape,
                vocabulary_size=section.vocabulary_size or num_tokens,
                sequence_length=section.sequence_length,
                eod=eod,
            )
            return ExportedModel(values, to_hugging_face)
        case HuggingFaceModel() as section:
            architecture = read_architecture(config, num_tokens=num_tokens, eod=eod)
            with model_errors(config):
                decoder = architecture.on_meta(section.vocabulary_size or architecture.rows)
            built: Any = decoder.model
            values = {**built.config.to_dict(), "architectures": [type(built).__name__]}
            return ExportedModel(values, _unwrapped)


def _unwrapped(name: str) -> str:
    if not name.startswith(_WRAPPED):
        raise KeyError(name)
    return name.removeprefix(_WRAPPED)


def rename_weights(model: ExportedModel, weights: Weights, *, place: Path) -> Weights:
    """Return a checkpoint's weights by the names that folders of transformers have.

    Tied ones once. Of an architecture whose folders have other tensors than its modules (experts,
    each by itself), all weights are read into memory.

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
    module = _on_meta(model.config)
    check_shapes(found, _shapes(module), place=place)
    return _as_saved(module, found)


def _on_meta(config: Mapping[str, Any]) -> nn.Module:
    """Build a model without memory for its weights."""
    transformers: Any = import_extra("transformers", extra="hf")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        )


def _shapes(module: nn.Module) -> dict[str, Sequence[int]]:
    """Return the shapes of a model's weights, tied ones once."""
    every = dict(module.named_parameters(remove_duplicate=False))
    once = dict(module.named_parameters())
    return {
        name: tensor.shape
        for name, tensor in module.state_dict().items()
        if name in once or name not in every
    }


def _as_saved(module: nn.Module, weights: Weights) -> Weights:
    """Undo what transformers does to the tensors of a folder when it loads them."""
    mappings: Any = import_extra("transformers.conversion_mapping", extra="hf")
    loading: Any = import_extra("transformers.core_model_loading", extra="hf")
    if not mappings.get_model_conversion_mapping(module, add_legacy=False):
        return weights
    read = {name: stored.read() for name, stored in weights.items()}
    tensors: Mapping[str, Tensor] = loading.revert_weight_conversion(module, read)
    return {name: StoredTensor(tuple(tensor.shape), (tensor,)) for name, tensor in tensors.items()}
