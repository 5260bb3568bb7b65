"""From a configuration to the size of its model. Knows no torch."""

from dataclasses import replace

from megadga.config.sections import LlamaModel
from megadga.model.presets import PRESETS, LlamaShape


def model_shape(model: LlamaModel) -> LlamaShape:
    """Return the preset's shape, with what the configuration says otherwise."""
    shape = PRESETS[model.preset]
    if model.tied_embeddings is None:
        return shape
    return replace(shape, tied_embeddings=model.tied_embeddings)


def describe_size(model: LlamaModel) -> str:
    """Return how many parameters the model has, as far as that is known without the shards."""
    shape = model_shape(model)
    if model.vocabulary_size is not None:
        return f"{shape.num_parameters(model.vocabulary_size):,} parameters"
    per_token = shape.num_parameters(1) - shape.num_parameters(0)
    fixed = f"{shape.num_parameters(0):,} parameters"
    return f"{fixed}, and {per_token:,} for each token of the shards' vocabulary"
