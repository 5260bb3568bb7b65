"""The `model` section of a run: a Llama-shaped decoder, or any of Hugging Face's transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from megadga.config.llama_shapes import PRESETS, LlamaShape, ShapeError
from megadga.config.validation import FolderOrHubId, validation_error
from megadga.section import ConfigIssue, PositiveFloat, PositiveInt, Section, StrictBool

PresetName = Literal["nano", "tiny", "8m", "30m", "125m", "350m", "750m", "1b", "7b"]


class ModelSection(Section):
    """What all kinds of models have."""

    sequence_length: PositiveInt
    """Tokens per training sequence (S), at least 1."""
    vocabulary_size: PositiveInt | None = None
    """Rows of the embedding, at least the tokenizer's vocabulary size; null: as many as that, or
    as the weights of `path` have. More than those: rows are added, with initial values."""
    activation_checkpointing: StrictBool = False
    """Recompute each layer's activations in the backward pass: less memory, a third slower."""
    check_tokenizer: StrictBool = True
    """Refuse to start unless the tokenizer beside the weights of a Hugging Face folder is the one
    that the shards were built with."""
    initial_weights: Path | None = None
    """Where the first weights are from, relative to this file: the folder of another run (its
    latest checkpoint), of one of its checkpoints, or of a Llama of Hugging Face. The optimizer and
    the mixture are new. null: initialisation."""


class LlamaModel(ModelSection):
    """A Llama-shaped decoder: a preset, of which any size can be changed."""

    type: Literal["llama"]
    """Kind of model."""
    preset: PresetName
    """Named shape, for what is null below."""
    num_layers: PositiveInt | None = None
    """Blocks of attention and feed-forward."""
    hidden_size: PositiveInt | None = None
    """Features of the residual stream, a multiple of 2 num_heads."""
    num_heads: PositiveInt | None = None
    """Query heads, of hidden_size / num_heads features each."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads, a divisor of num_heads."""
    intermediate_size: PositiveInt | None = None
    """Hidden features of the SwiGLU feed-forward."""
    rope_theta: Annotated[PositiveFloat | None, Field(gt=1.0)] = None
    """Base of the rotary frequencies, above 1; null: 10,000."""
    tied_embeddings: StrictBool | None = None
    """Share input and output embedding."""
    compile: StrictBool = False
    """Compile blocks and losses with torch.compile, which takes minutes at the first start, and on
    CPUs a C++ compiler. Losses agree up to rounding. Under ZeRO-3, which gathers parameters inside
    of blocks, functions without parameters alone: losses, rotation, and SwiGLU's product."""

    @property
    def shape(self) -> LlamaShape:
        """The preset's shape with what is given here."""
        own = {name: getattr(self, name) for name in LlamaShape.__dataclass_fields__}
        given = {name: value for name, value in own.items() if value is not None}
        return replace(PRESETS[self.preset], **given)

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        try:
            _ = self.shape
        except ShapeError as error:
            path = ("model", error.name)
            issue = ConfigIssue(path, error.expected, str(error.found))
            raise validation_error([issue]) from None
        return self


class HuggingFaceModel(ModelSection):
    """A causal language model of Hugging Face's transformers: its weights, or its architecture."""

    type: Literal["hugging_face"]
    """Kind of model."""
    path: Annotated[str, Field(min_length=1), AfterValidator(FolderOrHubId)] | None = None
    """Where training starts from: a folder with config.json and safetensors, relative to this
    file, or the name of a model on the hub; null: from initialisation, of `config`."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Branch, tag or commit of a model on the hub; null: its main branch."""
    config: dict[str, Any] = Field(default={})
    """Keys of transformers' configuration. With a path they override the folder's; without one,
    model_type says which architecture, and what is not given has transformers' defaults."""
    attention: Literal["sdpa", "flash_attention_2", "eager"] | None = None
    """Implementation of attention, as transformers calls it; null: its choice."""
    trust_remote_code: StrictBool = False
    """Run Python code that comes with the path. It can do anything that you can do."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        path = ("model", "path")
        if self.path is None and "model_type" not in self.config:
            expected = "a folder, a model on the hub, or config.model_type"
            raise validation_error([ConfigIssue(path, expected, "neither")])
        if self.path is not None and self.initial_weights is not None:
            expected = "null beside a path, which has weights"
            issue = ConfigIssue(("model", "initial_weights"), expected, str(self.initial_weights))
            raise validation_error([issue])
        if self.path is None and self.revision is not None:
            expected = "null without a path"
            issue = ConfigIssue(("model", "revision"), expected, self.revision)
            raise validation_error([issue])
        return self


Model = Annotated[LlamaModel | HuggingFaceModel, Field(discriminator="type")]
"""The section, chosen by its ``type``."""
