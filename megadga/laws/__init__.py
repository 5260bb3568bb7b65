"""Laws of mixtures: validation losses as functions of fixed weights, fitted to runs."""
