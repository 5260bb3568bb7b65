"""Rails of a rule that have keys of their own. Knows no rule."""

from megadga.config.base import Positive, PositiveShare, Section


class GeneralGuardSection(Section):
    """A stronger pull to the prior while the mean validation loss over the domains has risen."""

    max_rise: Positive
    """Nats a token above its best so far that this loss may be, above 0."""
    pull: PositiveShare
    """Share of the prior in updates meanwhile, if `prior_pull` is less, in (0, 1]."""
