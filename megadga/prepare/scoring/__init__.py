"""Scores documents of shards, by any scorer, in any number of processes."""
