from hypothesis import settings

# Examples are timed against the wall clock, which a busy machine stretches at will.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
