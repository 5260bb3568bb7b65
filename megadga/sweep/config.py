"""The configuration of a sweep: a run, and the mixtures that it is trained at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from megadga.config.validation import (
    SourceMap,
    issues_from_validation,
    resolve_paths,
    validation_error,
)
from megadga.config.yaml_source import read_file
from megadga.errors import ConfigError
from megadga.mixers.weights import TemperatureWeights, Weights
from megadga.section import (
    ConfigIssue,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Section,
    StrictBool,
    format_value,
)


class HalvingMixtures(Section):
    """Mixtures from a grid of halved weights (arXiv 2403.16952)."""

    type: Literal["halving"]
    """How mixtures are drawn."""
    number: PositiveInt
    """Mixtures, at least 1."""
    smallest: PositiveFraction = 1 / 16
    """Smallest weight but 0, in (0, 1]."""


class DirichletMixtures(Section):
    """Mixtures around a prior (arXiv 2407.01492)."""

    type: Literal["dirichlet"]
    """How mixtures are drawn."""
    number: PositiveInt
    """Mixtures, at least 1."""
    prior: Weights = TemperatureWeights(type="temperature", temperature=2.0)
    """What they are around, as the weights of type static are written; as RegMix has it, tokens to
    the power of 0.5."""
    strength: tuple[PositiveFloat, PositiveFloat] = (0.1, 5.0)
    """Smallest and largest; each mixture's is drawn between them. Low: few domains have all of the
    weight; high: mixtures are near the prior. Above 0."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        low, high = self.strength
        if low > high:
            issue = ConfigIssue(
                ("mixtures", "strength"), "the smaller one first", f"[{low:g}, {high:g}]"
            )
            raise validation_error([issue])
        return self


class ListedMixtures(Section):
    """Mixtures that are written down."""

    type: Literal["listed"]
    """How mixtures are drawn: they are not."""
    weights: Annotated[tuple[Weights, ...], Field(min_length=1)]
    """Each as the weights of type static: uniform, proportional, {type: temperature, temperature:
    T}, {type: unimax, max_epochs: N}, {type: matched}, or {domain: weight}."""


Mixtures = Annotated[
    HalvingMixtures | DirichletMixtures | ListedMixtures, Field(discriminator="type")
]


class SweepConfig(Section):
    """A run at several fixed mixtures."""

    run: Path
    """YAML file of a run, which says everything but the mixture, the seed and the output. Paths
    here are relative to this file's folder."""
    set: tuple[str, ...] = ()
    """What the runs have otherwise than that file, each as `--set` takes it: key=value."""
    output: Path
    """Folder of the runs' folders."""
    mixtures: Mixtures
    """Which mixtures: type halving, dirichlet or listed."""
    seed: NonNegativeInt = 0
    """Seed of the mixtures that are drawn."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """Seeds of the runs: each mixture is trained with each."""
    max_epochs: PositiveFloat | None = 4.0
    """Passes over a domain that a drawn mixture makes at most, above 0; null: any number."""
    target_tokens: PositiveInt | None = None
    """Tokens of the run that the sweep is for: max_epochs holds for that one, too, so that no
    mixture is tried that it has too little text for. null: for the runs of the sweep alone."""
    match_repetition: StrictBool = False
    """Train on subsets of the domains that are smaller than these by as much as the runs are
    shorter than target_tokens, so that a mixture repeats text as often as it would there
    (arXiv 2606.07597). They are written into the output folder."""

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.match_repetition and self.target_tokens is None:
            expected = "target_tokens beside it"
            raise validation_error([ConfigIssue(("match_repetition",), expected, "none")])
        return self

    _places: SourceMap = PrivateAttr(default_factory=SourceMap)

    def model_post_init(self, context: Any, /) -> None:
        """Store the source map that the values were validated with."""
        if isinstance(context, SourceMap):
            self._places = context

    def error(self, issues: Sequence[ConfigIssue]) -> ConfigError:
        """Return an error with one line per issue, each with its file and line."""
        return self._places.error(issues)


def load_sweep(path: Path) -> SweepConfig:
    """Load the configuration of a sweep.

    Raises:
        ConfigError: If it is invalid, with one line per issue: file and line, key, what was
            expected and what was found.
    """
    document = read_file(path)
    if not isinstance(document.values, dict):
        raise ConfigError(
            f"{path}:1: expected a mapping of keys, found {format_value(document.values)}"
        )
    places = SourceMap(document.places)
    issues: Sequence[ConfigIssue] = document.issues
    try:
        config = SweepConfig.model_validate(document.values, context=places)
    except ValidationError as error:
        reported = {issue.path for issue in issues}
        found = issues_from_validation(error, SweepConfig)
        raise places.error([*issues, *(m for m in found if m.path not in reported)]) from None
    if issues:
        raise places.error(issues)
    return resolve_paths(config, document.folders)
