"""Floating-point operations of training: of a model by token, and what accelerators can do."""

from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.train.data import RunData
from megadga.train.models import decoder_shape

PEAKS: tuple[tuple[str, float], ...] = (
    # NVIDIA's data sheets, "BF16 Tensor Core" without sparsity (half of what they print with it),
    # accumulated in float32.
    ("gb200", 2.5e15),
    ("b200", 2.25e15),
    ("gh200", 989.4e12),
    ("h200 nvl", 835.5e12),
    ("h200", 989.4e12),
    ("h100 nvl", 835.5e12),
    ("h100 pcie", 756.5e12),
    ("h100", 989.4e12),  # SXM
    ("a100", 312e12),
    ("a30", 165e12),
    ("a40", 149.7e12),
    ("a10g", 70e12),
    ("a10", 125e12),
    ("l40s", 362e12),
    ("l40", 181e12),
    ("l4", 121e12),
    ("rtx 5090", 209.5e12),
    ("rtx 4090", 165.2e12),
    ("rtx 3090", 71e12),
    ("rtx a6000", 154.8e12),
    # It has no bfloat16: float16, of the SXM2 form.
    ("v100", 125e12),
    # AMD's data sheets. An MI250X is two devices, of which each has half of its peak.
    ("mi325x", 1307.4e12),
    ("mi300x", 1307.4e12),
    ("mi250x", 191.5e12),
)
"""Words of devices' names, in the order that they are looked for, and dense bfloat16 FLOP/s."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 operations per second of an accelerator; None if not known.

    Args:
        device_name: As torch gives it, for example ``NVIDIA H100 80GB HBM3``.
    """
    words = f" {device_name.lower().replace('-', ' ')} "
    return next((peak for name, peak in PEAKS if f" {name} " in words), None)


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
            found = decoder_shape(config, data.tokenizer, rows=data.vocabulary_size)
            return found and flops_per_token(
                found.num_multiplied,
                num_layers=found.num_layers,
                attention_width=found.attention_width,
                sequence_length=section.sequence_length,
            )
