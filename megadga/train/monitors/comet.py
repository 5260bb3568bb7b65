"""Comet, online or in an archive for ``comet upload``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from megadga.config.sections import CometSection
from megadga.prepare.extras import import_extra, restrain_comet
from megadga.train.monitors.identity import ServiceIdentity


@final
class CometMonitor:
    """Logs to one experiment, which a resumed process goes on with.

    Args:
        section: How it is configured.
        config: The run's configuration, as JSON values.
        folder: Of archives.
        identity: The run's name.
        is_new: Whether the run starts here.
    """

    name = "comet"

    def __init__(
        self,
        section: CometSection,
        *,
        config: Mapping[str, Any],
        folder: Path,
        identity: ServiceIdentity,
        is_new: bool,
    ) -> None:
        restrain_comet()
        comet = import_extra("comet_ml", extra="monitors")
        self._identity = identity
        folder.mkdir(parents=True, exist_ok=True)
        # Nothing by itself: it would replace functions of torch.
        options = comet.ExperimentConfig(
            name=section.name,
            offline_directory=str(folder),
            auto_metric_logging=False,
            auto_param_logging=False,
            auto_output_logging=False,
            display_summary_level=0,
            log_code=False,
            log_graph=False,
            parse_args=False,
        )
        self._experiment: Any = comet.start(
            online=not section.offline,
            mode="create" if is_new else "get",
            project=section.project,
            workspace=section.workspace,
            experiment_key=identity.id,
            experiment_config=options,
        )
        if is_new:
            self._experiment.log_parameters(dict(config))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Monitor``."""
        if self._identity.is_new(step):
            self._experiment.log_metrics(dict(values), step=step)

    def go_back(self, step: int) -> None:  # noqa: ARG002  (it cannot; later steps are sent)
        """See ``Monitor``."""
        self._identity.go_back()

    def flush(self) -> None:
        """See ``Monitor``: a thread does it."""

    def close(self) -> None:
        """See ``Monitor``."""
        self._experiment.end()
