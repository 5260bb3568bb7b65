"""The section of GRAPE. Knows no domain and no specific set: names meet the data later."""

from typing import Literal

from megadga.config.base import Count, NonNegative, Positive, Section, Share
from megadga.config.probes import DirectionalProbe, Probe
from megadga.config.weights import Weights


class GrapeMixing(Section):
    """GRAPE (arXiv 2505.20380): several specific sets, those that improve least count most."""

    type: Literal["grape"]
    """How the domains' weights are set."""
    interval: Count
    """Optimizer steps between updates of the weights, at least 1; 100 in the authors' runs."""
    initial: Weights = "uniform"
    """Weights until the first update, written as the weights of type static. The sets' weights
    start at their importance."""
    step_size: Positive
    """Step of the domains' weights, above 0; 1.5 in the authors' runs, with clipped gradients."""
    task_step_size: NonNegative
    """Step of the sets' weights, at least 0; 5 or 10 in the authors' runs. 0: they stay at their
    importance, but for the smoothing."""
    task_smoothing: Share = 1e-3
    """Share of the sets' weights that each update spreads evenly, in [0, 1]; 0.001: the authors'
    code."""
    score: Literal["raw", "clipped"] = "raw"
    """What enters exp(): inner products of the domains' gradients and those of the logarithms of
    the sets' losses; raw: as they are (the paper); clipped: of gradients clipped to norm 1 (the
    authors' code), which needs every domain's gradient."""
    probe: Probe = DirectionalProbe()
    """How alignments are measured, for each set in turn, and on how many sequences: type
    directional or sharded."""
