"""This package's Llama as transformers' ``LlamaForCausalLM``: names of weights, configuration.

Both rotate feature ``e`` of a head together with ``e + E / 2``, so that equal weights under other
names give equal logits.
"""

import re
from typing import Any

from megadga.config.llama_shapes import LlamaShape
from megadga.model.llama import NORM_EPSILON

_OF_MODEL = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_OF_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.up.weight": "mlp.up_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)", re.ASCII)
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)", re.ASCII)


def to_hugging_face(name: str) -> str:
    """Return what transformers calls a weight of ``Llama``.

    Raises:
        KeyError: If ``Llama`` has no weight of this name.
    """
    if (block := _BLOCK.fullmatch(name)) is not None:
        return f"model.layers.{block[1]}.{_OF_BLOCK[block[2]]}"
    return _OF_MODEL[name]


_FROM_MODEL = {theirs: ours for ours, theirs in _OF_MODEL.items()}
_FROM_BLOCK = {theirs: ours for ours, theirs in _OF_BLOCK.items()}


def from_hugging_face(name: str) -> str:
    """Return what ``Llama`` calls a weight of transformers' ``LlamaForCausalLM``.

    Raises:
        KeyError: If it has no such weight: others have biases, for one.
    """
    if (layer := _LAYER.fullmatch(name)) is not None:
        return f"blocks.{layer[1]}.{_FROM_BLOCK[layer[2]]}"
    return _FROM_MODEL[name]


def hugging_face_config(
    shape: LlamaShape, *, vocabulary_size: int, sequence_length: int, eod: int
) -> dict[str, Any]:
    """Return the ``config.json`` of a model, without the type of its weights.

    Args:
        shape: Sizes of the model.
        vocabulary_size: Rows of the embedding.
        sequence_length: Positions that it was trained on, at least 1.
        eod: Id of the token between documents: every text begins after it and ends with it.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": eod,
        "eos_token_id": eod,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": sequence_length,
        "mlp_bias": False,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": NORM_EPSILON,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied_embeddings,
        "use_cache": True,
        "vocab_size": vocabulary_size,
    }
