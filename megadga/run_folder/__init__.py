"""A run's output folder: checkpoints, status markers, failure records, lock, log by domain."""

CONFIG_FILE = "config.yaml"
"""The configuration that the run was last started with, defaults spelled out, paths absolute."""


METRICS_FILE = "metrics.jsonl"
"""A line for each record: ``type``, ``step`` and values."""
