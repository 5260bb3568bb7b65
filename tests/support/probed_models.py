"""The models that probes are tested on: ours, Hugging Face's, and one with each kind of layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from megadga.config.llama_shapes import LlamaShape
from megadga.config.models import HuggingFaceModel
from megadga.model.llama import Llama
from megadga.probes.loss import Loss, causal_lm_loss, mean_loss
from tests.support.models import SmallDecoder
from tests.support.shards import SEQUENCE_LENGTH, VOCABULARY
from tests.support.unusual_models import OutOfSight, PackedRow, Routed


def nothing(engine: Any) -> None:
    """Leave the engine as it is."""


@dataclass(frozen=True)
class ProbedModel:
    """A model and how it is used.

    Attributes:
        build: Makes it, with equal weights on every rank if the seed is equal.
        loss: From it and tokens to the mean loss.
        settings: Of DeepSpeed, beside those of the test.
        prepare: What is done with the engine before it trains.
    """

    build: Callable[[], nn.Module]
    loss: Loss = mean_loss
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prepare: Callable[[Any], None] = nothing


def small() -> nn.Module:
    return SmallDecoder(VOCABULARY, SEQUENCE_LENGTH)


def llama(
    *, tied: bool = True, checkpointed: bool = False, scale: int = 1, num_layers: int = 1
) -> nn.Module:
    shape = LlamaShape(
        num_layers=num_layers,
        hidden_size=12 * scale,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=20 * scale,
        tied_embeddings=tied,
    )
    return Llama(
        shape,
        vocabulary_size=VOCABULARY,
        sequence_length=SEQUENCE_LENGTH,
        seed=3,
        checkpoint_activations=checkpointed,
    )


def hf_llama(
    *,
    checkpointed: bool = False,
    reentrant: bool = False,
    num_layers: int = 1,
    longer: int = 0,
) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (slow to import)

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=SEQUENCE_LENGTH + longer,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def gpt2(*, dropout: float = 0.0, checkpointed: bool = False) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415  (slow to import)

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=SEQUENCE_LENGTH,
        n_embd=12,
        n_layer=1,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM  # noqa: PLC0415  (slow to import)

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
            max_position_embeddings=SEQUENCE_LENGTH,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            # Of its base class; the others want no float64, which references are in.
            experts_implementation="eager",  # pyright: ignore[reportCallIssue]
        )
    )


def decoder_of(**config: Any) -> nn.Module:
    """Build a model as `model: {type: hugging_face}` does."""
    from megadga.model.hugging_face import Architecture  # noqa: PLC0415  (slow to import)

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": SEQUENCE_LENGTH,
    }
    section = HuggingFaceModel(
        type="hugging_face", config={**sizes, **config}, sequence_length=SEQUENCE_LENGTH
    )
    architecture = Architecture.read(section, vocabulary_size=VOCABULARY, eod=0)
    return architecture.build(vocabulary_size=VOCABULARY, seed=3)


def compile_engine(engine: Any) -> None:
    """Compile, under ZeRO-3 without AOTAutograd: its hooks cut a model into many small graphs."""
    partitioned = engine.zero_optimization_stage() == 3
    engine.compile(backend="eager" if partitioned else "aot_eager")


def compile_functions(engine: Any) -> None:
    """Compile what has no parameters, as a run under ZeRO-3 does."""
    engine.module.compile_functions(backend="aot_eager")


PROBED_MODELS: dict[str, ProbedModel] = {
    "small": ProbedModel(small),
    "small-dropout": ProbedModel(
        lambda: SmallDecoder(VOCABULARY, SEQUENCE_LENGTH, scalar=True, dropout=0.1)
    ),
    "small-hidden": ProbedModel(
        lambda: SmallDecoder(VOCABULARY, SEQUENCE_LENGTH, tied_in_sight=False)
    ),
    "llama": ProbedModel(llama),
    "llama-untied": ProbedModel(lambda: llama(tied=False)),
    "llama-checkpointed": ProbedModel(lambda: llama(checkpointed=True, num_layers=2)),
    "llama-compiled": ProbedModel(llama, prepare=compile_engine),
    "llama-functions": ProbedModel(llama, prepare=compile_functions),
    "llama-wide": ProbedModel(lambda: llama(tied=False, scale=5, num_layers=2)),
    "hf-llama": ProbedModel(hf_llama, causal_lm_loss),
    "hf-llama-checkpointed": ProbedModel(lambda: hf_llama(checkpointed=True), causal_lm_loss),
    "gpt2": ProbedModel(gpt2, causal_lm_loss),
    "gpt2-dropout-checkpointed": ProbedModel(
        lambda: gpt2(dropout=0.1, checkpointed=True), causal_lm_loss
    ),
    "qwen2": ProbedModel(lambda: decoder_of(model_type="qwen2", num_key_value_heads=1)),
    "qwen3": ProbedModel(
        lambda: decoder_of(model_type="qwen3", num_key_value_heads=1, head_dim=8)
    ),
    "gemma2": ProbedModel(
        lambda: decoder_of(model_type="gemma2", num_key_value_heads=1, head_dim=8)
    ),
    "gemma3": ProbedModel(
        lambda: decoder_of(
            model_type="gemma3_text",
            num_hidden_layers=2,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "gpt_neox": ProbedModel(lambda: decoder_of(model_type="gpt_neox")),
    "packed-row": ProbedModel(lambda: PackedRow(VOCABULARY, SEQUENCE_LENGTH)),
    "mixtral": ProbedModel(mixtral, causal_lm_loss),
    "routed": ProbedModel(lambda: Routed(VOCABULARY)),
    "out-of-sight": ProbedModel(lambda: OutOfSight(VOCABULARY, SEQUENCE_LENGTH)),
    "llama-autocast": ProbedModel(
        llama, settings={"torch_autocast": {"enabled": True, "dtype": "torch.bfloat16"}}
    ),
}
