"""The figures of a report in their order, each with its layers and how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

Kind = Literal["curves", "areas", "panels", "heat_map", "domain_lines", "events"]
"""How a figure is drawn: ``curves`` has lines of runs, ``areas`` a run's shares on top of one
another, ``panels`` small figures of a domain each, ``heat_map`` domains over steps of a run,
``domain_lines`` a run's domains as lines, ``events`` a run a row."""


@final
@dataclass(frozen=True)
class Figure:
    """A figure of a report.

    Attributes:
        key: Name of its image files.
        title: What it shows.
        kind: How it is drawn.
        quantity: Label of the vertical axis, or of the colours.
        layers: Keys of its layers; of ``curves`` the first is drawn thin if there are several.
        explanation: How to read it.
        absent: Why a run may have nothing for it.
        scale: Of the vertical axis; ``share``: from 0 to 1.
        mark: A value that is marked across the figure.
    """

    key: str
    title: str
    kind: Kind
    quantity: str
    layers: tuple[str, ...]
    explanation: str
    absent: str
    scale: Literal["linear", "log", "share"] = "linear"
    mark: float | None = None


_NO_EVALUATION = "no evaluation has been logged yet"

LOSSES = (
    Figure(
        "specific_loss",
        "Loss of the specific sets",
        "curves",
        "validation loss, nats per token",
        ("specific",),
        "Validation loss of each specific set, and of other sets that are evaluated: what the "
        "mixture is for.",
        f"{_NO_EVALUATION} of a specific set",
    ),
    Figure(
        "general_loss",
        "General loss",
        "curves",
        "validation loss, nats per token",
        ("general",),
        "Mean of the domains' validation losses: what the specific set may cost elsewhere.",
        _NO_EVALUATION,
    ),
    Figure(
        "training_loss",
        "Training loss",
        "curves",
        "loss, nats per token",
        ("loss", "loss_mean"),
        "Thin: every batch. Thick: mean over the steps around. The mixture moves, so a lower "
        "training loss may come from easier batches: compare validation losses.",
        "no step has been logged yet",
    ),
)

MIXTURE = (
    Figure(
        "weights",
        "Weights over time",
        "areas",
        "averaged weight",
        ("weights",),
        "Share of each domain in the batches of one run, from the bottom in the order of the "
        "table. Flat areas are fixed weights.",
        "no weights have been logged",
        scale="share",
    ),
    Figure(
        "weights_by_domain",
        "Weight of each domain",
        "panels",
        "averaged weight",
        ("weights",),
        "The same weights with a panel for each domain, and all runs in it. All panels have one "
        "scale.",
        "no weights have been logged",
    ),
)

DOMAINS = (
    Figure(
        "domain_losses",
        "Losses of each domain",
        "panels",
        "loss, nats per token",
        ("validation", "trained"),
        "Line: validation. Dots: mean training loss since the evaluation before. A training "
        "loss that falls while the validation loss rises is a domain that is being memorised.",
        _NO_EVALUATION,
    ),
    Figure(
        "epochs",
        "Epochs of each domain",
        "domain_lines",
        "passes over the domain",
        ("epochs",),
        "How often each domain's text has been repeated in one run. A cross marks where a "
        "domain has been seen once: from there on, all of it is repeated.",
        "epochs are logged at updates, and there has been none: the weights are fixed, or the "
        "run has just begun",
        mark=1.0,
    ),
    Figure(
        "effective_domains",
        "Effective number of domains",
        "curves",
        "exp of the weights' entropy",
        ("effective",),
        "As many equal weights would have the same entropy. Falling towards 1: the mixture "
        "collapses onto one domain.",
        "no weights have been logged",
    ),
)

COSTS = (
    Figure(
        "overhead",
        "Overhead of measuring",
        "curves",
        "share of training time",
        ("overhead", "overhead_mean", "overhead_predicted"),
        "Thin: observed at each update, a difference of noisy times that may be below 0. Thick: "
        "mean so far. Dashes: predicted by `megadga check`.",
        "nothing was measured: the weights are fixed, or follow a rule that needs no probes",
    ),
    Figure(
        "throughput",
        "Throughput",
        "curves",
        "tokens per second",
        ("tokens_per_s", "tokens_per_s_mean"),
        "Over all ranks. Thin: every step. Thick: mean over the steps around.",
        "no step has been logged yet",
    ),
    Figure(
        "time",
        "Where the time goes",
        "areas",
        "share of a step's time",
        ("seconds",),
        "Seconds of rank 0 by what they were spent on, as shares, in the mean over the steps "
        "around.",
        "times of parts of a step were not logged: the run is of an earlier version",
        scale="share",
    ),
    Figure(
        "utilisation",
        "Model FLOPs utilisation",
        "curves",
        "share of the peak",
        ("utilisation", "utilisation_mean"),
        "Floating-point operations of the model alone, as a share of what the accelerators "
        "could do.",
        "the peak of these accelerators is not known",
    ),
)

OPTIMISER = (
    Figure(
        "gradient_norm",
        "Gradient norm",
        "curves",
        "norm before clipping",
        ("gradient_norm", "gradient_norm_mean"),
        "Thin: every step. Thick: mean over the steps around. Peaks are steps at which training "
        "may become unstable.",
        "DeepSpeed reports no gradient norm for this engine",
        scale="log",
    ),
    Figure(
        "learning_rate",
        "Learning rate",
        "curves",
        "learning rate",
        ("learning_rate",),
        "As the optimizer used it.",
        "no learning rate was logged",
    ),
    Figure(
        "events",
        "Events",
        "events",
        "",
        (),
        "What happened once, a row for each run: resumes, skipped updates, loss spikes, "
        "requests by hand, revisions. Marks at the bottom of other figures are the same events.",
        "nothing but the start",
    ),
)


def alignment_figure(place: int, name: str, *, of: int) -> Figure:
    """Return the heat map of alignments with a specific set.

    Args:
        place: Of the set among all of the report, from 0.
        name: Of the set.
        of: How many sets there are.
    """
    suffix = "" if of == 1 else f"_{place + 1}"
    return Figure(
        f"alignments{suffix}",
        f"Alignments with {name}",
        "heat_map",
        "alignment",
        tuple(f"{layer}{place}" for layer in ALIGNMENT_LAYERS),
        "Inner product of each domain's gradient with that of the specific set. Blue: more of "
        "the domain lowers the specific loss; red: raises it. Significance divides by the "
        "standard error: below 2 a value may be noise.",
        "alignments are not measured: the weights are fixed, or follow a rule that needs no "
        "probes",
    )


ALIGNMENT_LAYERS = ("alignment", "error", "cosine")
"""Followed by the place of the specific set: its layers."""


def all_figures(sets: Sequence[str]) -> tuple[Figure, ...]:
    """Return the figures of a report in their order.

    Args:
        sets: The specific sets that alignments were measured with.
    """
    names = tuple(sets) or ("the specific set",)
    aligned = [alignment_figure(place, name, of=len(names)) for place, name in enumerate(names)]
    return (*LOSSES, *MIXTURE, *aligned, *DOMAINS, *COSTS, *OPTIMISER)
