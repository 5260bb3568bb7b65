"""Every picture of a run. Knows no training."""

from pathlib import Path

from megadga.report.alignments import has_alignments, plot_alignments
from megadga.report.records import read_records
from megadga.report.weights import plot_weights


def plot_run(metrics: Path, folder: Path) -> tuple[Path, ...]:
    """Draw a run's weights, and its alignments within their standard errors.

    Args:
        metrics: A run's ``metrics.jsonl``, finished or not.
        folder: Gets ``weights.png`` and ``alignments.png``, with a panel a specific set.

    Returns:
        The pictures; without alignments, where no update measured any, only the first.

    Raises:
        ConfigError: If the metrics tell of no weights.
    """
    weights, alignments = (folder / f"{name}.png" for name in ("weights", "alignments"))
    plot_weights(metrics, weights)
    if not any(map(has_alignments, read_records(metrics, "update"))):
        return (weights,)
    plot_alignments(metrics, alignments)
    return weights, alignments
