"""Refuses, before an engine is built, a run whose alignments are not known to be exact."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from megadga.config.deepspeed import settings_in_precision
from megadga.config.run import RunConfig
from megadga.probes.supported import find_leaf_modules, mark_leaf_modules, unsupported_settings
from megadga.section import ConfigIssue
from megadga.train.data import RunData
from megadga.train.mixture import Mixture
from megadga.train.models import model_errors


def check_supported_run(config: RunConfig, data: RunData, mixture: Mixture) -> None:
    """Refuse settings and models on which the run's mixture cannot be trained or measured.

    What only an engine shows is refused when there is one: see `probes.supported`.

    Args:
        config: The run.
        data: Its data.
        mixture: Its mixture; where it measures no alignments, parallelism alone is refused.

    Raises:
        ConfigError: Naming all such settings, each with its place in the file.
    """
    settings = settings_in_precision(config)
    measured = mixture.probe is not None
    issues = list(unsupported_settings(settings, measured=measured))
    zero = settings.get("zero_optimization", {})
    if measured and zero.get("stage") == 3:
        issues += _leaf_modules(config, data, zero)
    if issues:
        raise config.error([replace(each, path=("deepspeed", *each.path)) for each in issues])


def _leaf_modules(
    config: RunConfig, data: RunData, zero: Mapping[str, Any]
) -> Iterator[ConfigIssue]:
    """Yield an issue if ZeRO-3 would make modules of a model of transformers leaf modules."""
    if data.architecture is None:
        return  # our decoder has no module that could be one
    with model_errors(config):
        model = data.architecture.on_meta(data.vocabulary_size)
    mark_leaf_modules(model, zero)
    yield from find_leaf_modules(model)
