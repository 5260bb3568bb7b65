"""The rules of other papers, and weights that are known beforehand. Knows no domain."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from megadga.config.base import Count, NonNegative, Positive, Section, Share, Whole
from megadga.config.probes import DirectionalProbe, Probe
from megadga.config.weights import Weights


class Stage(Section):
    """Weights from a step on."""

    step: Whole
    """Optimizer steps completed when the stage begins; the first is 0, the others ascend."""
    weights: Weights
    """The mixture, written as the weights of type static."""


class Replay(Section):
    """The weights of another run, after each of its updates."""

    metrics: Path
    """That run's metrics.jsonl, relative to this file."""
    initial: Weights = "uniform"
    """What that run began with, which its metrics do not tell."""


class ScheduleMixing(Section):
    """Weights that are known beforehand, as a function of the step."""

    type: Literal["schedule"]
    """How the domains' weights are set."""
    interval: Count = 1
    """Optimizer steps between looks at the schedule, at least 1. Batches are read ahead only up to
    the next one."""
    stages: tuple[Stage, ...] | None = None
    """[{step, weights}, ...] from step 0 on; null: `csv` or `replay` says it."""
    csv: Path | None = None
    """Table with a column `step` and one of masses for each domain, a line a stage, relative to
    this file; null: `stages` or `replay` says it."""
    replay: Replay | None = None
    """Run whose weights are repeated: {metrics, initial}; null: `stages` or `csv` says it."""
    between: Literal["constant", "linear"] = "constant"
    """From one stage to the next; constant: a leap; linear: a line, in proportion to the steps."""


class OdmMixing(Section):
    """Online Data Mixing (arXiv 2312.02406): a bandit that follows the losses of training."""

    type: Literal["odm"]
    """How the domains' weights are set."""
    interval: Count = 1
    """Optimizer steps between updates of the weights, at least 1; 1: the paper. Batches are read
    ahead only up to the next one."""
    initial: Weights = "uniform"
    """Weights until the first update after the warm-up, written as the weights of type static."""
    smoothing: Annotated[float, Field(strict=True, ge=0.0, lt=1.0)] = 0.9
    """Share of the old reward in the new one, in [0, 1)."""
    warmup: Whole = 0
    """Optimizer steps at the initial weights, at least 0; the paper: 1 % of all."""
    reward: Literal["importance", "exponential"] = "importance"
    """What a domain is rewarded with; importance: its loss over its weight, as in the paper;
    exponential: exp(loss), as in the paper's code."""


class DogeMixing(Section):
    """DoGE (arXiv 2310.15393): domains that agree with the others, or a target, get weight."""

    type: Literal["doge"]
    """How the domains' weights are set."""
    interval: Count
    """Optimizer steps between updates of the weights, at least 1."""
    step_size: Positive
    """Mirror-descent step (eta / mu), above 0; the paper's 5e-4 and 0.05 give 0.01."""
    target: Literal["domains", "specific"] = "domains"
    """Whose gradient the domains' are compared with; domains: their sum, on the same sequences;
    specific: the specific set's."""
    max_score: Positive = 5.0
    """Largest score of a domain, above 0, in units of the domains' mean gradient norm."""
    initial: Weights = "uniform"
    """Weights at step 0, written as the weights of type static."""
    probe: Probe = DirectionalProbe()
    """How alignments are measured and on how many sequences: type directional or sharded. For the
    target domains, specific_sequences is not read."""


class DoremiMixing(Section):
    """DoReMi's proxy run (arXiv 2305.10429): domains that lag behind a reference get weight."""

    type: Literal["doremi"]
    """How the domains' weights are set."""
    reference: Path
    """Output folder of another run, finished or stopped, relative to this file: its
    latest checkpoint is the reference model, of which every rank holds a whole copy."""
    interval: Count = 1
    """Optimizer steps between updates of the weights, at least 1; 1: the paper. Batches are read
    ahead only up to the next one."""
    step_size: NonNegative = 1.0
    """Step of the exponentiated gradient (eta), at least 0, in 1/nats; 1: the paper."""
    smoothing: Share = 1e-3
    """Share of every new mixture that is spread evenly, in [0, 1]; 1e-3: the paper."""
    initial: Weights = "uniform"
    """Weights at step 0, written as the weights of type static."""
