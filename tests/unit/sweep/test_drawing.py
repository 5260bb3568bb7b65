import numpy as np
import pytest

from megadga.mixers.static import epoch_caps
from megadga.sweep.drawing import draw_dirichlet, draw_halving

ONES = np.ones(3)


def test_halved_weights_are_halves_of_their_caps_but_for_one_that_takes_the_rest():
    caps = np.array([0.8, 0.6, 1.0])
    mixtures = draw_halving(caps, number=20, smallest=0.1, seed=0)
    levels = ({0.8, 0.4, 0.2, 0.1, 0.0}, {0.6, 0.3, 0.15, 0.0}, {1.0, 0.5, 0.25, 0.125, 0.0})
    for mixture in mixtures.tolist():
        assert sum(mixture) == pytest.approx(1.0, abs=1e-12)
        off = [
            weight
            for weight, of_domain in zip(mixture, levels, strict=True)
            if min(abs(weight - level) for level in of_domain) > 1e-12
        ]
        assert len(off) <= 1
    assert (mixtures <= caps + 1e-12).all()
    assert len(np.unique(mixtures.round(9), axis=0)) == 20


def test_a_grid_that_has_fewer_mixtures_says_how_many_it_has():
    # With a smallest weight of 0.5: (1, 0), (0, 1) and (1/2, 1/2).
    assert len(draw_halving(np.ones(2), number=3, smallest=0.5, seed=0)) == 3
    with pytest.raises(ValueError, match="number: expected at most 3 for 2 domains"):
        draw_halving(np.ones(2), number=4, smallest=0.5, seed=0)


def test_more_of_the_same_seed_begin_with_the_same():
    for draw in (
        lambda number: draw_halving(ONES, number=number, smallest=0.1, seed=3),
        lambda number: draw_dirichlet(ONES / 3, ONES, number=number, strength=(0.1, 5.0), seed=3),
    ):
        assert (draw(12)[:5] == draw(5)).all()


def test_mixtures_around_a_prior_have_it_as_their_mean():
    prior = np.array([0.6, 0.3, 0.1])
    mixtures = draw_dirichlet(prior, ONES, number=4000, strength=(1.0, 4.0), seed=0)
    # A weight's variance is p (1 - p) / (1 + strength), at most 0.12: 5 standard errors are 0.027.
    assert mixtures.mean(axis=0) == pytest.approx(prior, abs=0.027)


@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_their_variance_is_that_of_a_dirichlet(strength):
    prior = np.array([0.5, 0.5])
    drawn = draw_dirichlet(prior, np.ones(2), number=4000, strength=(strength, strength), seed=0)
    assert drawn[:, 0].var() == pytest.approx(0.25 / (1.0 + strength), rel=0.1)


def test_weights_come_down_to_their_caps_and_domains_without_prior_stay_out():
    caps = np.array([0.4, 0.4, 0.4, 1.0])
    prior = np.array([0.4, 0.3, 0.3, 0.0])
    mixtures = draw_dirichlet(prior, caps, number=200, strength=(0.01, 1.0), seed=0)
    assert (mixtures <= caps + 1e-12).all()
    assert (mixtures[:, 3] == 0.0).all()
    assert mixtures.sum(axis=1) == pytest.approx(1.0, abs=1e-12)


def test_caps_are_the_weights_at_which_a_domain_is_read_as_often_as_it_may_be():
    # At weight 1 the first is read 8 times, the second twice.
    assert epoch_caps(np.array([8.0, 2.0]), 4.0).tolist() == [0.5, 1.0]


def test_a_run_longer_than_its_text_says_how_often_that_has_to_be_read():
    with pytest.raises(ValueError, match=r"max_epochs: expected at least 4.00, .* found 2"):
        epoch_caps(np.array([8.0, 8.0]), 2.0)
