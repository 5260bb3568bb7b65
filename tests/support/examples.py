"""How many examples property tests try, in multiples of what the profile of Hypothesis says."""

from hypothesis import settings


def examples(factor: float) -> settings:
    """Settings of a test that tries this many times the usual number of examples."""
    return settings(max_examples=round(factor * settings().max_examples))
