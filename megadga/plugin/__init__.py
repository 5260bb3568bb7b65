"""Plugin for DeepSpeed training loops: batches sampled by domain, mixture updates between steps.

DeepSpeed is not patched: the loop takes its batches from the plugin and calls ``after_step``.
"""

from megadga.plugin.batches import Batch, BatchIndices, Sampling
from megadga.plugin.mixture import MixturePlugin
from megadga.plugin.protocol import Metrics, Plugin
from megadga.plugin.records import CollapseAlarm, RepeatAlarm

__all__ = [
    "Batch",
    "BatchIndices",
    "CollapseAlarm",
    "Metrics",
    "MixturePlugin",
    "Plugin",
    "RepeatAlarm",
    "Sampling",
]
