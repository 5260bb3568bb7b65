"""Weights & Biases, online or in files for ``wandb sync``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from megadga.config.sections import WandbSection
from megadga.prepare.extras import import_extra
from megadga.train.monitors.identity import ServiceIdentity

_FINISH_S = 60.0
"""How long the end of a run waits for a service that does not answer."""


@final
class WandbMonitor:
    """Logs to one run, which a resumed process goes on with.

    Args:
        section: How it is configured.
        config: The run's configuration, as JSON values.
        folder: Of its files.
        identity: The run's name.
    """

    name = "wandb"

    def __init__(
        self,
        section: WandbSection,
        *,
        config: Mapping[str, Any],
        folder: Path,
        identity: ServiceIdentity,
    ) -> None:
        wandb = import_extra("wandb", extra="monitors")
        self._identity = identity
        self._run: Any = wandb.init(
            project=section.project,
            name=section.name,
            group=section.group,
            entity=section.team,
            mode="offline" if section.offline else None,  # None: as WANDB_MODE says
            id=identity.id,
            resume="allow",
            dir=folder,
            config=dict(config),
            allow_val_change=True,
            settings=wandb.Settings(
                console="off", silent=True, disable_code=True, finish_timeout=_FINISH_S
            ),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Monitor``."""
        if self._identity.is_new(step):
            self._run.log(dict(values), step=step)

    def go_back(self, step: int) -> None:  # noqa: ARG002  (it cannot; later steps are sent)
        """See ``Monitor``."""
        self._identity.go_back()

    def flush(self) -> None:
        """See ``Monitor``: a process beside this one does it."""

    def close(self) -> None:
        """See ``Monitor``."""
        self._run.finish()
