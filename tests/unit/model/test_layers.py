import copy

import torch

from megadga.model.llama import (
    DecoderInitialization,
    Embedding,
    Linear,
    NormalInitializer,
    RotaryEmbedding,
)


def test_a_weight_depends_on_seed_and_name_alone():
    torch.manual_seed(1)
    first = Linear(8, 16, NormalInitializer(7, "blocks.0.query", 0.1)).weight
    torch.manual_seed(2)
    again = Linear(8, 16, NormalInitializer(7, "blocks.0.query", 0.1)).weight
    other_name = Linear(8, 16, NormalInitializer(7, "blocks.1.query", 0.1)).weight
    other_seed = Linear(8, 16, NormalInitializer(8, "blocks.0.query", 0.1)).weight

    assert torch.equal(first, again)
    assert not torch.equal(first, other_name)
    assert not torch.equal(first, other_seed)


def test_making_layers_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()

    Linear(8, 16, NormalInitializer(7, "a", 0.1))
    Embedding(16, 8, NormalInitializer(7, "b", 0.1))

    assert torch.equal(before, torch.random.get_rng_state())


def test_a_weight_made_in_bfloat16_is_the_float32_one_rounded():
    initialize = NormalInitializer(7, "head", 0.1)
    exact, rounded = torch.empty(64, 64), torch.empty(64, 64, dtype=torch.bfloat16)

    initialize(exact)
    initialize(rounded)

    assert torch.equal(exact.to(torch.bfloat16), rounded)


def test_reset_gives_the_first_weight_back():
    layer = Linear(8, 16, NormalInitializer(7, "head", 0.1))
    first = layer.weight.detach().clone()

    with torch.no_grad():
        layer.weight.zero_()
    layer.reset_parameters()

    assert torch.equal(layer.weight, first)


def test_deviations_follow_width_and_depth():
    rules = DecoderInitialization(seed=3, width=40, num_layers=8).within("blocks.0")
    inner, residual = torch.empty(500, 500), torch.empty(500, 500)

    rules.inner("gate")(inner)
    rules.residual("down")(residual)

    # The deviation of 250,000 samples is known within 0.2 %; 1 % is seven times that.
    torch.testing.assert_close(inner.std(), torch.tensor(0.1), rtol=0.01, atol=0.0)
    torch.testing.assert_close(residual.std(), torch.tensor(0.025), rtol=0.01, atol=0.0)


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = RotaryEmbedding(head_width=16, sequence_length=64, base=10000.0)
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    queries = rotary(query.expand(1, 1, 64, 16))
    keys = rotary(key.expand(1, 1, 64, 16))

    scores = (queries @ keys.transpose(-1, -2))[0, 0]

    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(61), rtol=0, atol=1e-5)
    torch.testing.assert_close(queries[0, 0, 0], query)  # position 0 does not turn
    assert not torch.allclose(scores[0, 0], scores[0, 3], atol=1e-2)


def test_rotary_turns_a_pair_by_position_times_frequency():
    rotary = RotaryEmbedding(head_width=4, sequence_length=8, base=100.0)
    unit = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(1, 1, 8, 4)

    turned = rotary(unit)[0, 0, 5]

    angle = torch.tensor(5 * 100.0 ** (-2 / 4))
    expected = torch.stack([torch.tensor(0.0), angle.cos(), torch.tensor(0.0), angle.sin()])
    torch.testing.assert_close(turned, expected)


def test_rotary_tables_keep_their_bits_when_the_model_is_cast():
    exact = RotaryEmbedding(head_width=16, sequence_length=64, base=10000.0)
    for cast in (copy.deepcopy(exact).to(torch.bfloat16), copy.deepcopy(exact).bfloat16()):
        assert torch.equal(cast.cosines, exact.cosines)
        assert torch.equal(cast.sines, exact.sines)
        assert cast(torch.ones(1, 1, 64, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert not exact.state_dict()
