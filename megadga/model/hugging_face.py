"""Causal language models of Hugging Face's transformers, with the face of our own decoder."""

# ruff: noqa: N803 (shape suffixes are capitals)
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# (transformers is partly typed)

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from megadga.config.models import HuggingFaceModel
from megadga.model.losses import Decoder

_REFUSALS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError),
    StrictDataclassError,
)
"""What transformers raises for folders, keys and names that it cannot use."""


class ModelError(Exception):
    """The section `model` asks for what transformers cannot give.

    Args:
        key: Of the section; empty: the section as a whole.
        expected: What it has to be.
        found: What it is.
    """

    def __init__(self, key: tuple[str, ...], expected: str, found: str) -> None:
        super().__init__(f"{'.'.join(key)}: expected {expected}, found {found}")
        self.key = key
        self.expected = expected
        self.found = found


@dataclass(frozen=True, eq=False)
class Architecture:
    """An architecture that transformers knows, and how it is to be built.

    Args:
        section: The run's model.
        config: Its complete configuration (``PretrainedConfig``).
    """

    section: HuggingFaceModel
    config: Any

    @classmethod
    def read(cls, section: HuggingFaceModel, *, vocabulary_size: int, eod: int) -> "Architecture":
        """Read the configuration of a folder, of a model on the hub, or the one that is given.

        Args:
            section: The run's model.
            vocabulary_size: Rows of the embedding where only the tokenizer decides: without a
                path, and with no ``vocab_size`` in its configuration.
            eod: The tokenizer's end of a document, likewise.

        Raises:
            ModelError: If there is none, or transformers does not accept it.
        """
        values = dict(section.config)
        if section.path is None:
            model_type = values.pop("model_type")
            with _refusals(("config",), "a configuration that transformers knows"):
                tokens = {"vocab_size": vocabulary_size, "bos_token_id": eod, "eos_token_id": eod}
                config = AutoConfig.for_model(model_type, **(tokens | values))
        else:
            if section.revision is not None and Path(section.path).is_absolute():
                raise ModelError(("revision",), "null for a folder", section.revision)
            with _refusals(("path",), "a folder with a config.json, or a model on the hub"):
                config, unused = AutoConfig.from_pretrained(
                    section.path,
                    revision=section.revision,
                    trust_remote_code=section.trust_remote_code,
                    return_unused_kwargs=True,
                    **values,
                )
            if unused:
                known = f"keys of transformers' {type(config).__name__}"
                raise ModelError(("config", next(iter(unused))), known, "an unknown key")
        return cls(section, config)

    @property
    def rows(self) -> int:
        """Rows of the embedding that its weights have."""
        return self.config.get_text_config().vocab_size

    @property
    def longest(self) -> int | None:
        """Positions that the architecture is made for; None if it does not say."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @property
    def values(self) -> Mapping[str, Any]:
        """The configuration as JSON, without what all of transformers' have by default."""
        values: dict[str, Any] = json.loads(self.config.to_json_string(use_diff=True))
        dropped = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
        return {key: value for key, value in values.items() if key not in dropped}

    def parameter_shapes(self, vocabulary_size: int) -> list[tuple[int, ...]]:
        """Return the shapes of all parameters, tied ones once; nothing is allocated.

        Args:
            vocabulary_size: Rows of the embedding.

        Raises:
            ModelError: If transformers does not accept the configuration.
        """
        return [tuple(parameter.shape) for parameter in self.on_meta(vocabulary_size).parameters()]

    def on_meta(self, vocabulary_size: int) -> "HuggingFaceDecoder":
        """Return the model without memory for its weights.

        Args:
            vocabulary_size: Rows of the embedding.

        Raises:
            ModelError: As of `parameter_shapes`.
        """
        with torch.device("meta"):
            return HuggingFaceDecoder(self._uninitialized(vocabulary_size, torch.float32))

    def load(self, dtype: torch.dtype) -> "HuggingFaceDecoder":
        """Return the model of the path, as it is, to evaluate it.

        Args:
            dtype: Type of its weights.

        Raises:
            ModelError: If weights are missing or have other shapes, or cannot be read.
        """
        with _built():
            return HuggingFaceDecoder(self._from_pretrained(dtype).eval())

    def empty(self, *, vocabulary_size: int, dtype: torch.dtype) -> "HuggingFaceDecoder":
        """Return the model without initial weights, which a checkpoint's shall replace.

        Args:
            vocabulary_size: Rows of the embedding, at least `rows`.
            dtype: Type of its weights.

        Raises:
            ModelError: If transformers does not accept the configuration.
        """
        return HuggingFaceDecoder(self._uninitialized(vocabulary_size, dtype).eval())

    def _uninitialized(self, vocabulary_size: int, dtype: torch.dtype) -> Any:
        with no_init_weights(), _built():
            model = self._from_config(dtype)
            model.tie_weights()
            self._resize(model, vocabulary_size)
        return model

    def _resize(self, model: Any, vocabulary_size: int) -> None:
        if vocabulary_size != self.rows:
            model.resize_token_embeddings(vocabulary_size, mean_resizing=False)

    def _from_config(self, dtype: torch.dtype = torch.float32) -> Any:
        section = self.section
        return AutoModelForCausalLM.from_config(
            self.config,
            attn_implementation=section.attention,
            dtype=dtype,
            trust_remote_code=section.trust_remote_code,
        )

    def build(
        self,
        *,
        vocabulary_size: int,
        seed: int,
        deepspeed: Mapping[str, Any] | None = None,
        pretrained: bool = True,
    ) -> "HuggingFaceDecoder":
        """Return the model with its initial weights, in float32, or as ZeRO-3 is configured.

        Weights that are not read from the path are drawn from ``seed``: equal bits on every rank
        and for every stage of ZeRO, on the CPU.

        Args:
            vocabulary_size: Rows of the embedding, at least `rows`.
            seed: Of the initial weights.
            deepspeed: Settings of an engine under ZeRO-3: the model is partitioned while it is
                built, and weights are read by the first rank, parameter by parameter. Then
                collective. None: this process gets all of it.
            pretrained: Whether weights are read from the path; False: a checkpoint replaces them.

        Raises:
            ModelError: If weights are missing or have other shapes, or cannot be read.
        """
        with torch.random.fork_rng(), _partitioned(deepspeed), _built():
            torch.manual_seed(seed)
            if pretrained and self.section.path is not None:
                model = self._from_pretrained()
            elif deepspeed is None:
                with no_init_weights():  # modules draw in their constructors, to be overwritten
                    model = self._from_config()
                model.initialize_weights()
                model.tie_weights()
            else:
                model = self._from_config()
            self._resize(model, vocabulary_size)
        if self.section.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        return HuggingFaceDecoder(model)

    def _from_pretrained(self, dtype: torch.dtype = torch.float32) -> Any:
        section = self.section
        models: Any = AutoModelForCausalLM  # what it returns depends on its arguments
        model, loading = models.from_pretrained(
            section.path,
            config=self.config,
            revision=section.revision,
            attn_implementation=section.attention,
            dtype=dtype,
            trust_remote_code=section.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(loading["missing_keys"]):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            expected = f"weights for every parameter of {type(model).__name__}"
            raise ModelError(("path",), expected, f"none for {missing[0]}{more} in {section.path}")
        return model


class HuggingFaceDecoder(Decoder):
    """A causal language model of transformers.

    Args:
        model: Called with ``input_ids`` and ``use_cache``, returns an object with ``logits`` of
            shape ``(b, S, V)``. Its buffers stay in the precision that they were built in, as
            tables of rotary embeddings must.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HuggingFaceDecoder":
        """Move buffers with the model, but do not round them: ``.to(bfloat16)`` would."""
        exact = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers():
            owner, _, own = name.rpartition(".")
            setattr(self.get_submodule(owner), own, exact[name].to(buffer.device))
        return self

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Return the scores of every next token: ``(b, S)`` ids to ``(b, S, V)``."""
        return self.model(input_ids=tokens_BS, use_cache=False).logits


@contextmanager
def _partitioned(settings: Mapping[str, Any] | None) -> Generator[None]:
    """Have transformers partition what it builds, as DeepSpeed's settings say."""
    if settings is None:
        yield
        return
    announced = HfDeepSpeedConfig(dict(settings))  # it is found while this object lives
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del announced


@contextmanager
def _built() -> Generator[None]:
    with _refusals((), "a model that transformers can build"):
        yield


@contextmanager
def _refusals(key: tuple[str, ...], expected: str) -> Generator[None]:
    """Turn what transformers raises into an error of one line about a key of the section."""
    try:
        yield
    except _REFUSALS as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelError(key, expected, found) from error
