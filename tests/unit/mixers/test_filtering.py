import numpy as np
import pytest

from megadga.arrays import FloatArray
from megadga.mixers.filtering import (
    LIFETIMES,
    TAUS,
    filtered,
    first_memory,
    kalman_update,
    posterior,
)

ALL = np.ones(24, dtype=np.int64)


def observe(
    means: FloatArray, rng: np.random.Generator, *, batch: int, scale: float = 1.0
) -> tuple[FloatArray, np.ndarray, FloatArray]:
    """Scores of a batch whose sequences are drawn uniformly, with their standard errors."""
    domains = rng.integers(0, means.size, batch)
    sequences = scale * (3.0 + means[domains] + rng.standard_normal(batch))
    counts = np.bincount(domains, minlength=means.size)
    divisors = np.maximum(counts, 1)
    scores = np.bincount(domains, weights=sequences, minlength=means.size) / divisors
    squares = np.bincount(
        domains, weights=(sequences - scores[domains]) ** 2, minlength=means.size
    )
    return scores, counts, np.sqrt(squares / np.maximum(counts - 1, 1) / divisors)


def exact_posterior(
    history: list[tuple[FloatArray, FloatArray]], phi: float, tau: float
) -> tuple[FloatArray, FloatArray]:
    """The posterior of the last ``m`` given all observations at once, by dense linear algebra.

    Unknowns are ``m_i(u)`` of all domains and updates, and ``c(u)``, which is free.
    """
    num_updates, num_domains = len(history), history[0][0].size
    times = np.arange(num_updates)
    over_time = tau**2 * phi ** np.abs(times[:, np.newaxis] - times)
    precision = np.zeros((num_updates * (num_domains + 1),) * 2)
    of_m = np.kron(np.linalg.inv(over_time), np.eye(num_domains))
    size = num_updates * num_domains
    precision[:size, :size] = of_m
    target = np.zeros(size + num_updates)
    for u, (scores, noise) in enumerate(history):
        for i in range(num_domains):
            row = np.zeros(size + num_updates)
            row[u * num_domains + i] = row[size + u] = 1.0
            precision += np.outer(row, row) / noise[i]
            target += row * scores[i] / noise[i]
    covariance = np.linalg.inv(precision)
    mean = covariance @ target
    last = slice(size - num_domains, size)
    return mean[last], covariance.diagonal()[last].astype(np.float64)


def test_with_a_common_part_that_is_known_well_updates_equal_the_exact_posterior() -> None:
    rng = np.random.default_rng(0)
    phi, tau, num_domains = 0.8, 0.7, 400
    truth = tau * rng.standard_normal(num_domains)
    means = np.zeros((1, num_domains))
    variances = np.full((1, num_domains), tau**2)
    history: list[tuple[FloatArray, FloatArray]] = []
    for u in range(3):
        if u:
            means, variances = phi * means, tau**2 + phi**2 * (variances - tau**2)
        noise = rng.uniform(0.5, 2.0, num_domains)
        scores = 3.0 + truth + np.sqrt(noise) * rng.standard_normal(num_domains)
        history.append((scores, noise))
        means, variances, _ = kalman_update(means, variances, scores, noise)

    expected, expected_variances = exact_posterior(history, phi, tau)

    # That the common part is estimated, too, makes the domains' errors depend on each other: by
    # 1/K, which the filters leave out.
    np.testing.assert_allclose(means[0], expected, atol=4.0 / num_domains)
    np.testing.assert_allclose(variances[0], expected_variances, atol=2.0 / num_domains)


def test_what_all_domains_share_and_the_unit_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    means = rng.standard_normal(24)
    one, other = first_memory(24), first_memory(24)
    for _ in range(20):
        scores, counts, errors = observe(means, rng, batch=16)
        one = filtered(one, scores, counts, errors)
        other = filtered(other, 1e6 * (scores - 40.0), counts, 1e6 * errors)
    np.testing.assert_allclose(
        posterior(one).standardized, posterior(other).standardized, atol=1e-6
    )


@pytest.mark.parametrize("tau", TAUS)
def test_many_noisy_updates_find_what_single_ones_do_not(tau: float) -> None:
    rng = np.random.default_rng(2)
    means = tau * rng.standard_normal(24)
    memory = first_memory(24)
    for _ in range(200):
        scores, counts, errors = observe(means, rng, batch=16)
        memory = filtered(memory, scores, counts, errors)
    found = posterior(memory)
    assert np.corrcoef(found.means, means)[0, 1] > 0.8
    deviations = (found.means - means + means.mean()) / np.sqrt(found.variances)
    assert 0.3 < np.sqrt(np.mean(deviations**2)) < 2.0  # the variances are about right


def test_scores_that_differ_by_noise_alone_hardly_move_anything() -> None:
    rng = np.random.default_rng(3)
    memory = first_memory(24)
    for _ in range(100):
        memory = filtered(memory, *observe(np.zeros(24), rng, batch=16))
    assert np.abs(posterior(memory).standardized).max() < 0.7


def test_a_score_that_changes_is_followed() -> None:
    rng = np.random.default_rng(4)
    before, after = np.repeat([[1.0, -1.0], [-1.0, 1.0]], 12, axis=1)
    memory = first_memory(24)
    for _ in range(40):
        memory = filtered(memory, *observe(before, rng, batch=64))
    assert np.corrcoef(posterior(memory).means, before)[0, 1] > 0.9
    for _ in range(40):
        memory = filtered(memory, *observe(after, rng, batch=64))
    assert np.corrcoef(posterior(memory).means, after)[0, 1] > 0.9


def test_the_unit_follows_the_scale_of_the_scores() -> None:
    rng = np.random.default_rng(5)
    means = rng.standard_normal(24)
    memory = first_memory(24)
    for update in range(120):
        scale = 10.0 * np.exp(-update / 20) + 1.0
        memory = filtered(memory, *observe(means, rng, batch=32, scale=scale))
    assert memory["filter_noise"][1] == pytest.approx(1.0, rel=0.3)  # the standard deviation


def test_a_domain_that_is_not_measured_is_forgotten() -> None:
    rng = np.random.default_rng(6)
    memory = first_memory(8)
    means = np.array([3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -3.0])
    for _ in range(10):
        scores = means + 0.3 * rng.standard_normal(8)
        memory = filtered(memory, scores, np.ones(8, dtype=np.int64), None)
    seen = posterior(memory).means[0]
    counts = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    for _ in range(2 * int(LIFETIMES.max())):
        memory = filtered(memory, means + 0.3 * rng.standard_normal(8), counts, None)
    found = posterior(memory)
    assert abs(found.means[0]) < 0.5 * seen
    assert found.variances[0] > found.variances[1:].max()


@pytest.mark.parametrize(
    ("scores", "counts"),
    [(np.zeros(3), np.zeros(3, dtype=np.int64)), (np.full(3, 2.0), np.ones(3, dtype=np.int64))],
    ids=["nothing measured", "equal scores"],
)
def test_without_differences_nothing_is_known(scores, counts) -> None:
    memory = filtered(first_memory(3), scores, counts, None)
    assert posterior(memory).standardized.tolist() == [0.0, 0.0, 0.0]


def test_a_single_domain_has_no_differences() -> None:
    memory = first_memory(1)
    for score in (1.0, 2.0, 5.0):
        memory = filtered(memory, np.array([score]), np.array([4]), np.array([0.1]))
    assert posterior(memory).standardized.tolist() == [0.0]


def test_standardized_scores_are_no_further_apart_than_one() -> None:
    rng = np.random.default_rng(7)
    memory = first_memory(5)
    means = np.array([40.0, 0.0, -10.0, 3.0, 2.0])
    for _ in range(50):
        memory = filtered(memory, *observe(means, rng, batch=64))
    assert posterior(memory).standardized.std() == pytest.approx(1.0, abs=1e-2)
