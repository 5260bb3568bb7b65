"""Settings of the property tests."""

from hypothesis import settings

# Examples are timed against the wall clock, which a busy machine stretches at will; and a run of
# the tests must mean the same every time. `--hypothesis-profile=explore` looks for new examples.
settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("reproducible")
