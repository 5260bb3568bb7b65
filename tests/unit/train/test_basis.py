"""Bases of a configuration over a run's clusters."""

from pathlib import Path

import numpy as np
import pytest

from megadga.check import check
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.errors import ConfigError
from megadga.mixers.basis import Basis, OverBasis, write_basis
from megadga.mixers.matching import matched_weights
from megadga.mixers.weights import MatchedWeights
from megadga.train.data import RunData, open_data
from megadga.train.mixture import Mixture, make_mixture
from tests.support.runs import write_run
from tests.support.shards import write_domain, write_grouped

CLUSTERING = "ab" * 32
NAMES = ("c0", "c1", "c2", "c3")
OVERRIDES = ("mixing.basis=basis.npz", "model.sequence_length=4")
LEAVE_OUT = ("model.sequence_length=40", "data.too_short=leave_out")
UNIFORM = "mixing.initial=uniform"
ROWS = [[0.5, 0.5, 0.0, 0.0], [0.25, 0.0, 0.25, 0.5]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four clusters in shared shards, a specific set, and a basis of two distributions."""
    write_grouped(tmp_path / "domains", NAMES, classifier=CLUSTERING)
    write_domain(tmp_path / "specific", seed=1)
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, rows=ROWS, *, domains=NAMES, clustering=CLUSTERING) -> None:
    basis = Basis.from_rows(
        [np.array(row) for row in rows],
        names=("qa", "code"),
        domains=domains,
        clustering=clustering,
    )
    write_basis(folder / "basis.npz", basis)


def load(folder: Path, *overrides: str) -> tuple[RunConfig, RunData]:
    config = load_config(write_run(folder), [*OVERRIDES, *overrides])
    return config, open_data(config)


def mixture(folder: Path, *overrides: str) -> Mixture:
    config, data = load(folder, *overrides)
    excluded = data.excluded.keys()
    return make_mixture(
        config, data.domains, specific=data.specific, excluded=excluded, basis=data.basis
    )


def test_the_domains_weights_are_those_of_the_basis(folder):
    found = mixture(folder, "mixing.initial={code: 0.8, qa: 0.2}").scheduler

    assert isinstance(found, OverBasis)
    assert found.mixtures.names == ("qa", "code")
    np.testing.assert_allclose(found.init().averaged_weights, [0.3, 0.1, 0.2, 0.4], rtol=1e-15)


def test_columns_are_matched_by_name(folder):
    write(folder, [row[::-1] for row in ROWS], domains=NAMES[::-1])
    weights = mixture(folder, UNIFORM).scheduler.init().averaged_weights
    np.testing.assert_allclose(weights, [0.375, 0.25, 0.125, 0.25], rtol=1e-15)


def test_floor_and_prior_are_of_the_basis(folder):
    scheduler = mixture(folder, "mixing.floor=0.5", "mixing.prior={qa: 0.5, code: 0.5}").scheduler
    assert scheduler.init().averaged_weights.size == 4
    with pytest.raises(ConfigError, match=r"floor: expected at most 1 / 2 basis distributions"):
        mixture(folder, "mixing.floor=0.6")


def test_by_default_it_starts_from_rows_matched_to_the_specific_set(folder):
    _, data = load(folder)
    assert data.basis is not None
    share = MatchedWeights(type="matched").uniform_share
    rows = matched_weights(
        data.domains, data.specific, uniform_share=share, mixtures=data.basis.mixtures
    )
    weights = mixture(folder, "mixing.preset=filtered").scheduler.init().averaged_weights
    np.testing.assert_allclose(weights, rows @ np.array(ROWS), rtol=1e-12)


def test_mass_in_domains_that_are_excluded_goes_to_the_others(folder):
    written = [[0.5, 0.25, 0.0, 0.25], ROWS[1]]
    write(folder, written)
    _, data = load(folder, *LEAVE_OUT)
    kept = [NAMES.index(domain.name) for domain in data.domains]
    assert 0 < len(kept) < 4
    assert data.basis is not None
    rows = np.array(written)[:, kept]

    np.testing.assert_allclose(data.basis.lost_mass, 1.0 - rows.sum(axis=1), atol=1e-15)
    expected = (rows / rows.sum(axis=1, keepdims=True)).mean(axis=0)
    weights = mixture(folder, *LEAVE_OUT, UNIFORM).scheduler.init().averaged_weights
    np.testing.assert_allclose(weights, expected, rtol=1e-15)


def test_a_distribution_over_nothing_but_domains_that_are_excluded_is_refused(folder):
    write(folder, [[1.0, 0.0, 0.0, 0.0], ROWS[1]])
    with pytest.raises(ConfigError, match=r"basis\.npz: qa: expected a share in a domain that is"):
        load(folder, *LEAVE_OUT)


def test_a_basis_of_another_clustering_is_refused_with_both_files(folder):
    write(folder, clustering="cd" * 32)
    expected = (
        r"domains/manifest\.json: grouping\.classifier: expected cdcdcdcdcdcdcdcd, the "
        r"clustering that basis\.npz is of, found abababababababab"
    )
    with pytest.raises(ConfigError, match=expected):
        load(folder)


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (("c0", "c1", "c2", "other"), "expected those of the shards, found other"),
        ((*NAMES, "c4"), "expected the 4 of the shards, found 5"),
    ],
)
def test_a_basis_over_other_domains_is_refused(folder, domains, message):
    rows = [np.pad(row, (0, len(domains) - 4)) for row in ROWS]
    write(folder, rows, domains=domains)
    with pytest.raises(ConfigError, match=rf"basis\.npz: domains: {message}"):
        load(folder)


def test_weights_must_name_the_distributions(folder):
    with pytest.raises(ConfigError, match=r"the name of a basis distribution, found 'cod'"):
        mixture(folder, "mixing.initial={qa: 0.5, cod: 0.5}")


def test_another_basis_is_another_run(folder):
    _, one = load(folder)
    write(folder, ROWS[::-1])
    _, other = load(folder)
    assert one.identity["basis"] != other.identity["basis"]


def test_check_says_what_the_basis_is_and_counts_its_probes(folder):
    lines = list(check(load_config(write_run(folder), [*OVERRIDES, "mixing.preset=paper"])))
    assert "basis       2 distributions over 4 domains, 5 shares above 0" in lines
    assert any("(2 x 8 + 32) / (4 x 8)" in line for line in lines)
