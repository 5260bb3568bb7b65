"""Our Llama under other names is transformers' own, and the other way round."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from megadga.config.llama_shapes import PRESETS
from megadga.model.llama import Llama
from megadga.model.naming import from_hugging_face, hugging_face_config, to_hugging_face


def test_names_are_transformers_own_in_both_directions():
    shape = PRESETS["nano"]
    config = hugging_face_config(shape, vocabulary_size=64, sequence_length=8, eod=2)
    theirs = LlamaForCausalLM(LlamaConfig(**config)).state_dict()
    ours = Llama(shape, vocabulary_size=64, sequence_length=8, seed=0).state_dict()
    assert {to_hugging_face(name): t.shape for name, t in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }
    assert [from_hugging_face(to_hugging_face(name)) for name in ours] == [*ours]


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "transformer.wte", ""])
def test_a_weight_that_our_llama_lacks_has_no_name(name):
    with pytest.raises(KeyError):
        from_hugging_face(name)
