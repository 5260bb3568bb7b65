"""Which windows make up a batch: pure numpy functions of (seed, state, weights)."""
