"""Ranks, shutdown, supervision and run markers; launchers, one kind of cluster per file."""
