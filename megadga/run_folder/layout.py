"""Names of files in a run's output folder that several parts of the package read."""

CONFIG_FILE = "config.yaml"
"""The configuration that the run was last started with, defaults spelled out, paths absolute."""


METRICS_FILE = "metrics.jsonl"
"""A line for each record: ``type``, ``step`` and values."""
