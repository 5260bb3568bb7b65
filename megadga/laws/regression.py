"""Regression of losses on weights, in the place of a law (RegMix, arXiv 2407.01492)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from megadga.arrays import FloatArray
from megadga.errors import ConfigError
from megadga.laws.fitting import EXTRA
from megadga.prepare.extras import import_extra

LEAST_IN_LEAF = 20
"""Runs in a leaf at least: LightGBM's default, which RegMix keeps."""
_PARAMETERS = {
    "objective": "regression",
    "learning_rate": 1e-2,
    "min_data_in_leaf": LEAST_IN_LEAF,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
}
_TREES = 1000


@final
@dataclass(frozen=True, eq=False)
class LinearLaw:
    """``L_i(r) = sum_j b_ij r_j``; on the simplex the constant is part of all ``b_ij``.

    Attributes:
        coefficients: ``b``: the loss at weight 1, shape ``(M, K)``.
    """

    coefficients: FloatArray

    def predict(self, weights: FloatArray) -> FloatArray:
        """Return the losses at mixtures of shape ``(N, K)``, shape ``(N, M)``."""
        return weights @ self.coefficients.T


def fit_linear(weights: FloatArray, losses: FloatArray) -> LinearLaw:
    """Fit by least squares; of several solutions, the one of least norm.

    Args:
        weights: Distributions, shape ``(N, K)``.
        losses: Shape ``(N, M)``.
    """
    coefficients = np.linalg.lstsq(weights, losses, rcond=None)[0]
    return LinearLaw(np.asarray(coefficients.T, dtype=np.float64))


@final
@dataclass(frozen=True, eq=False)
class BoostedLaw:
    """Gradient-boosted trees of LightGBM, a model for each set.

    Attributes:
        models: As LightGBM's text, ``M`` of them.
    """

    models: tuple[str, ...]

    @cached_property
    def _boosters(self) -> tuple[Any, ...]:
        lightgbm: Any = import_extra("lightgbm", extra=EXTRA)
        return tuple(lightgbm.Booster(model_str=model) for model in self.models)

    def predict(self, weights: FloatArray) -> FloatArray:
        """Return the losses at mixtures of shape ``(N, K)``, shape ``(N, M)``."""
        predicted = [booster.predict(weights, num_threads=1) for booster in self._boosters]
        return np.stack([np.asarray(each, dtype=np.float64) for each in predicted], axis=1)


def fit_boosted(weights: FloatArray, losses: FloatArray, *, seed: int = 0) -> BoostedLaw:
    """Fit 1,000 trees at a learning rate of 0.01, as RegMix's code does.

    The code (``regression_fitting/regression.ipynb``) stops early by the error on the mixtures
    that it is judged on afterwards; here all trees are kept.

    Args:
        weights: Distributions, shape ``(N, K)``.
        losses: Shape ``(N, M)``.
        seed: Of LightGBM.

    Raises:
        ConfigError: If there are so few runs that no tree has a split, or LightGBM is missing.
    """
    if len(weights) < 2 * LEAST_IN_LEAF:
        raise ConfigError(
            f"lightgbm: expected at least {2 * LEAST_IN_LEAF} runs, with fewer no tree has a "
            f"split, found {len(weights)}"
        )
    lightgbm: Any = import_extra("lightgbm", extra=EXTRA)
    models: list[str] = []
    for column in losses.T:
        data = lightgbm.Dataset(weights, column, free_raw_data=False)
        booster = lightgbm.train({**_PARAMETERS, "seed": seed}, data, num_boost_round=_TREES)
        models.append(booster.model_to_string())
    return BoostedLaw(tuple(models))
