"""Floating-point operations of training, by token."""

from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.train.data import RunData
from megadga.train.models import decoder_shape


def flops_per_token(
    num_parameters: int, *, num_layers: int, attention_width: int, sequence_length: int
) -> float:
    """Return the operations of forward and backward pass: ``6 N + 12 L d S``.

    Multiplications and additions count one each; the causal mask is not made use of, and what is
    computed twice (activation checkpointing) counts once. PaLM (arXiv 2204.02311), appendix B.

    Args:
        num_parameters: ``N``, of what a token is multiplied with: without the embedding, unless it
            is the output matrix as well.
        num_layers: ``L``.
        attention_width: ``d``, width of a head times the number of query heads.
        sequence_length: ``S``.
    """
    return 6.0 * num_parameters + 12.0 * num_layers * attention_width * sequence_length


def training_flops(config: RunConfig, data: RunData) -> float | None:
    """Return the operations of a run's model by token; None if its architecture does not say.

    Args:
        config: The run.
        data: Its data, which has the number of rows of the embedding.
    """
    match config.model:
        case LlamaModel() as section:
            shape, rows = section.shape, data.vocabulary_size
            embedding = 0 if shape.tied_embeddings else rows * shape.hidden_size
            return flops_per_token(
                shape.num_parameters(rows) - embedding,
                num_layers=shape.num_layers,
                attention_width=shape.hidden_size,
                sequence_length=section.sequence_length,
            )
        case HuggingFaceModel() as section:
            assert data.architecture is not None
            found = decoder_shape(config, data.architecture, rows=data.vocabulary_size)
            return found and flops_per_token(
                found.num_multiplied,
                num_layers=found.num_layers,
                attention_width=found.attention_width,
                sequence_length=section.sequence_length,
            )
