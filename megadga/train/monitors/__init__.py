"""Monitors: what else a run writes its numbers to, beside its own metrics."""
