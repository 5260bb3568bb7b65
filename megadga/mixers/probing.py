"""How alignments are measured: one section per `type`, which is the value that probes take."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, cast

from pydantic import Discriminator, Tag

from megadga.section import ConfigIssue, PositiveFraction, PositiveInt, Section, format_value


class LowRank(Section):
    """Two thin factors of each matrix of the direction."""

    rank: PositiveInt
    """Columns of each factor, at least 1; a matrix that is no larger is kept whole."""

    @property
    def most(self) -> int:
        """Columns of each factor, at most."""
        return self.rank

    @property
    def share(self) -> float | None:
        """Share of the squared norm that decides how many columns are kept; None: all are."""
        return None


class LowRankEnergy(Section):
    """Two thin factors of each matrix, as many columns as hold a share of the direction."""

    energy: PositiveFraction
    """Share of the direction's squared norm that is kept, in (0, 1]."""
    max_rank: PositiveInt = 64
    """Columns of each factor, at most; at least 1."""

    @property
    def most(self) -> int:
        """Columns of each factor, at most."""
        return self.max_rank

    @property
    def share(self) -> float | None:
        """Share of the squared norm that decides how many columns are kept."""
        return self.energy


def _direction_form(value: object) -> str:
    if isinstance(value, LowRankEnergy):
        return "<energy>"
    if isinstance(value, LowRank):
        return "<rank>"
    if isinstance(value, Mapping):
        return "<energy>" if "energy" in value else "<rank>"
    return "<named>"


Direction = Annotated[
    Annotated[Literal["full"], Tag("<named>")]
    | Annotated[LowRank, Tag("<rank>")]
    | Annotated[LowRankEnergy, Tag("<energy>")],
    Discriminator(_direction_form),
]
"""full, {rank: r}, or {energy: share, max_rank: r}."""


WithoutMoments = Literal["refuse", "raw"]
"""What a score by AdamW's second moments does before there are any."""


class Directional(Section):
    """Derivatives along the specific gradient, of sequences of all domains in shared batches."""

    type: Literal["directional"] = "directional"
    """How alignments are measured."""
    sequences_per_domain: PositiveInt = 8
    """Sequences drawn from each domain for one measurement (b), at least 1."""
    specific_sequences: PositiveInt = 32
    """Sequences drawn from the specific set for one measurement (b_spe), at least 1."""
    direction: Direction = "full"
    """What is kept of the specific gradient: full; or thin factors of its matrices, which take
    less memory: {rank: r}, or {energy: share, max_rank: r}."""
    direction_interval: PositiveInt = 1
    """Updates that a direction is used for, at least 1; more than 1 only if it is low-rank."""


class InFlight(Section):
    """The derivatives of the training batch's own sequences; other domains keep their last."""

    type: Literal["in_flight"] = "in_flight"
    """How alignments are measured."""
    sequences_per_domain: PositiveInt = 8
    """Sequences drawn from each domain that is refreshed (b), at least 1."""
    specific_sequences: PositiveInt = 32
    """Sequences drawn from the specific set for one direction (b_spe), at least 1."""
    direction: Direction = "full"
    """What is kept of the specific gradient: full; or thin factors of its matrices, which take
    less memory: {rank: r}, or {energy: share, max_rank: r}."""
    direction_interval: PositiveInt = 1
    """Updates that a direction is used for, at least 1; more than 1 only if it is low-rank."""
    refresh_every: PositiveInt | None = 10
    """Updates between those at which domains that the batch does not hold are measured on
    sequences of their own, at least 1; the first update is one. null: they never are, and the
    rule must filter what is measured."""


class Sharded(Section):
    """Gradients of every domain, sharded over the ranks and multiplied there: the reference."""

    type: Literal["sharded"] = "sharded"
    """How alignments are measured."""
    sequences_per_domain: PositiveInt = 8
    """Sequences drawn from each domain for one measurement (b), at least 1."""
    specific_sequences: PositiveInt = 32
    """Sequences drawn from the specific set for one measurement (b_spe), at least 1."""


def _probe_type(value: object) -> str:
    if isinstance(value, Directional | InFlight | Sharded):
        return value.type
    if isinstance(value, Mapping):
        return str(cast("Mapping[str, object]", value).get("type", "directional"))
    return "directional"


Probe = Annotated[
    Annotated[Directional, Tag("directional")]
    | Annotated[InFlight, Tag("in_flight")]
    | Annotated[Sharded, Tag("sharded")],
    Discriminator(_probe_type),
]
"""One of them; without a `type`, directional."""


DIRECTIONAL = Directional()
"""What measures where nothing else is said."""


def find_direction_inconsistencies(probe: Probe) -> Iterator[ConfigIssue]:
    """Yield what a probe's direction cannot be.

    Args:
        probe: The section ``mixing.probe``.
    """
    if isinstance(probe, Sharded):
        return
    if probe.direction == "full" and probe.direction_interval > 1:
        expected = "1 with mixing.probe.direction full, or a low-rank one"
        path = ("mixing", "probe", "direction_interval")
        yield ConfigIssue(path, expected, format_value(probe.direction_interval))


def unusable_probe(probe: Probe, reason: str) -> ConfigIssue:
    """Return the issue of an in-flight probe where only the other types can measure."""
    expected = f"directional or sharded {reason}"
    return ConfigIssue(("mixing", "probe", "type"), expected, format_value(probe.type))
