"""Checkpoints, status markers, failure records and the lock in a run's output folder."""
