"""Checks whether hosts are fit for a run: each by itself, then all ranks together."""
