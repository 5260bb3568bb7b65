"""The model of a run before it is built: its size, its vocabulary, its tokenizer (without torch).

Models of Hugging Face's transformers are an exception: only transformers, and torch with it, can
tell what they are.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from megadga.config.llama_shapes import PRESETS
from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.config.run import RunConfig
from megadga.data.files import checksum
from megadga.data.manifest import TokenizerIdentity

if TYPE_CHECKING:
    from megadga.model.hugging_face import Architecture

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of configurations under which architectures have their number of experts."""


TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.json"}
"""By the kind of a tokenizer, its file in the folder of a model."""


@dataclass(frozen=True)
class ModelSize:
    """What a run's model comes to.

    Attributes:
        num_parameters: Tied ones counted once.
        matrices: Shapes of its matrices, tied ones once.
        description: Kind and name, for people.
    """

    num_parameters: int
    matrices: tuple[tuple[int, int], ...]
    description: str


@contextmanager
def model_errors(config: RunConfig) -> Generator[None]:
    """Turn what is wrong with a model of transformers into an error about its key."""
    from megadga.model.hugging_face import ModelError  # noqa: PLC0415

    try:
        yield
    except ModelError as error:
        key = ("model", *error.key)
        raise config.invalid(*key, expected=error.expected, found=error.found) from error


def read_architecture(config: RunConfig, *, num_tokens: int, eod: int) -> "Architecture":
    """Return what transformers knows about a run's model, of ``type: hugging_face``.

    Args:
        config: The run.
        num_tokens: Of its tokenizer.
        eod: Id of the token that ends documents.

    Raises:
        ConfigError: If transformers is not installed, or knows no such model.
    """
    section = config.model
    assert isinstance(section, HuggingFaceModel)
    missing = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
    if missing:
        expected = f"the package {missing[0]}: pip install 'megadga[hf]'"
        raise config.invalid("model", "type", expected=expected, found="none installed")
    from megadga.model.hugging_face import Architecture  # noqa: PLC0415

    rows = section.vocabulary_size or num_tokens
    with model_errors(config):
        return Architecture.read(section, vocabulary_size=rows, eod=eod)


def open_architecture(config: RunConfig, tokenizer: TokenizerIdentity) -> "Architecture | None":
    """Return what transformers knows about a run's model; None of our own decoder.

    Raises:
        ConfigError: As of `read_architecture`.
    """
    if not isinstance(config.model, HuggingFaceModel):
        return None
    return read_architecture(config, num_tokens=tokenizer.vocab_size, eod=tokenizer.eod)


def vocabulary_rows(
    config: RunConfig, tokenizer: TokenizerIdentity, architecture: "Architecture | None"
) -> int:
    """Return the rows of a run's embedding: as configured, or else of its weights or tokenizer.

    Args:
        config: The run.
        tokenizer: Of its shards.
        architecture: Of its model, by `open_architecture`.

    Raises:
        ConfigError: If they are fewer than the tokenizer's tokens, or than the weights have.
    """
    section = config.model
    least, whose, found = tokenizer.vocab_size, "the tokenizer's", section.vocabulary_size
    if architecture is not None:
        own = architecture.rows
        if found is None and own < least:
            expected = f"at least {least}, {whose}: rows are added only if asked for"
            key = ("model", "vocabulary_size")
            raise config.invalid(*key, expected=expected, found=f"null, and {own} in the model")
        if own > least:
            least, whose = own, "the model's own"
    if found is not None and found < least:
        expected = f"at least {least}, {whose}"
        raise config.invalid("model", "vocabulary_size", expected=expected, found=str(found))
    return least if found is None else found


def model_size(
    config: RunConfig, tokenizer: TokenizerIdentity, architecture: "Architecture | None"
) -> ModelSize:
    """Return the size of a run's model; nothing is allocated.

    Args:
        config: The run.
        tokenizer: Of its shards.
        architecture: Of its model, by `open_architecture`.

    Raises:
        ConfigError: As of `vocabulary_rows`.
    """
    rows = vocabulary_rows(config, tokenizer, architecture)
    match config.model:
        case LlamaModel() as section:
            return llama_size(section, rows)
        case HuggingFaceModel() as section:
            assert architecture is not None
            with model_errors(config):
                shapes = architecture.parameter_shapes(rows)
            matrices = tuple((shape[0], shape[1]) for shape in shapes if len(shape) == 2)
            name = section.path or section.config["model_type"]
            description = f"{type(architecture.config).__name__} of {name}"
            return ModelSize(sum(map(math.prod, shapes)), matrices, description)


@dataclass(frozen=True)
class DecoderShape:
    """What the operations of a decoder follow from.

    Attributes:
        num_multiplied: Parameters that a token is multiplied with: without the embedding, unless
            it is the output matrix as well.
        num_layers: Blocks with attention.
        attention_width: Width of a head times the number of query heads.
    """

    num_multiplied: int
    num_layers: int
    attention_width: int


def decoder_shape(
    config: RunConfig, architecture: "Architecture", *, rows: int
) -> DecoderShape | None:
    """Return the shape of a model of transformers; None if its configuration does not say.

    Nor is it known of mixtures of experts, whose tokens are multiplied with some of them.

    Args:
        config: The run.
        architecture: Of its model.
        rows: Of the embedding.
    """
    text = architecture.config.get_text_config()
    width, layers, heads = (
        getattr(text, name, None)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    experts = [getattr(text, name, None) for name in _EXPERTS]
    if not (width and layers and heads) or any(experts):
        return None
    with model_errors(config):
        number = sum(map(math.prod, architecture.parameter_shapes(rows)))
    embedding = 0 if text.tie_word_embeddings else rows * width
    head_width = getattr(text, "head_dim", None) or width // heads
    return DecoderShape(number - embedding, layers, head_width * heads)


def llama_size(section: LlamaModel, rows: int) -> ModelSize:
    """Return the size of a Llama-shaped decoder.

    Args:
        section: Its configuration.
        rows: Of its embedding.
    """
    shape, matrices = section.shape, tuple(section.shape.matrices(rows))
    preset, own = asdict(PRESETS[section.preset]), asdict(shape)
    given = ", ".join(f"{name} {own[name]}" for name in own if own[name] != preset[name])
    description = f"llama {section.preset}" + (f" with {given}" if given else "")
    return ModelSize(shape.num_parameters(rows), matrices, description)


def describe_size(config: RunConfig) -> str:
    """Return a model's number of parameters as far as it is known without the shards."""
    match config.model:
        case LlamaModel(shape=shape, vocabulary_size=int() as rows):
            return f"{shape.num_parameters(rows):,} parameters"
        case LlamaModel(shape=shape):
            per_token = shape.num_parameters(1) - shape.num_parameters(0)
            fixed = f"{shape.num_parameters(0):,} parameters"
            return f"{fixed}, and {per_token:,} for each token of the shards' vocabulary"
        case HuggingFaceModel(path=path):
            return f"parameters: those of {path or 'the configuration'}; `megadga check` counts"


def check_tokenizer(
    config: RunConfig,
    key: str,
    path: str,
    tokenizer: TokenizerIdentity,
    *,
    revision: str | None = None,
) -> None:
    """Compare the file of the tokenizer beside a model's weights with the one of the shards.

    Args:
        config: The run; compares nothing if it says so.
        key: Of the section ``model``, for the error.
        path: A folder, or the name of a model on the hub.
        tokenizer: The one that the shards were built with.
        revision: On the hub.

    Raises:
        ConfigError: If it is another one, or none to compare.
    """
    if not config.model.check_tokenizer:
        return
    name = TOKENIZER_FILES[tokenizer.kind]
    expected = (
        f"the tokenizer of the shards ({tokenizer.kind} {tokenizer.fingerprint[:12]}), "
        "or check_tokenizer: false"
    )
    file = file_of_model(path, name, revision)
    if file is None:
        raise config.invalid("model", key, expected=expected, found=f"no {name}")
    if (found := checksum(file)) != tokenizer.fingerprint:
        raise config.invalid("model", key, expected=expected, found=f"{name} {found[:12]}")


def check_model(
    config: RunConfig, tokenizer: TokenizerIdentity, architecture: "Architecture | None"
) -> None:
    """Check that a model can be trained on a tokenizer's tokens, and windows of their length.

    Args:
        config: The run.
        tokenizer: Of its shards.
        architecture: Of its model, by `open_architecture`.

    Raises:
        ConfigError: If the path has another tokenizer, or none to compare, or the architecture
            has fewer positions than ``sequence_length``.
    """
    section = config.model
    if architecture is None:
        return
    assert isinstance(section, HuggingFaceModel)
    longest = architecture.longest
    if longest is not None and longest < section.sequence_length:
        expected = f"at most {longest}, the positions of the model (max_position_embeddings)"
        found = str(section.sequence_length)
        raise config.invalid("model", "sequence_length", expected=expected, found=found)
    if section.path is not None:
        check_tokenizer(config, "path", section.path, tokenizer, revision=section.revision)


def file_of_model(path: str, name: str, revision: str | None) -> Path | None:
    """Return a file of a model's folder, or of the hub's; None if there is none.

    Args:
        path: The folder's absolute path, or the name on the hub.
        name: Of the file.
        revision: On the hub.
    """
    if Path(path).is_absolute():
        file = Path(path) / name
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file  # noqa: PLC0415

    found = cached_file(
        path,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if found is None else Path(found)
