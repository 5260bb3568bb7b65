"""The training loop and its parts: steps, evaluation, checkpoints, metrics."""
