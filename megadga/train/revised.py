"""Between the mixture of a run and the record of its domains in checkpoints."""

from collections.abc import Mapping
from typing import Any

from megadga.data.content import contents_of
from megadga.mixers.base import Scheduler
from megadga.mixers.basis import AVERAGED_WEIGHTS, WEIGHTS
from megadga.plugin import MixturePlugin
from megadga.run_folder.domains import DomainRecord
from megadga.train.checkpoints import Loader
from megadga.train.data import RunData
from megadga.train.revisions import Revision, rule_name


def record_domains(
    plugin: MixturePlugin, scheduler: Scheduler, data: RunData, *, revision: int = 0
) -> DomainRecord:
    """Return what a checkpoint says of its domains.

    Args:
        plugin: The run's mixture.
        scheduler: Its rule.
        data: Its data.
        revision: Number of the last revision that was applied during the run.
    """
    mixture = plugin.mixture
    basis = {k: mixture.memory[k] for k in (WEIGHTS, AVERAGED_WEIGHTS) if k in mixture.memory}
    return DomainRecord(
        contents=contents_of(data.prefixes),
        order=plugin.order,
        cursors=plugin.cursors,
        weights=mixture.weights,
        averaged_weights=mixture.averaged_weights,
        rule=rule_name(scheduler),
        step=plugin.step,
        num_updates=mixture.num_updates,
        num_skipped=mixture.num_skipped,
        revision=revision,
        basis=basis,
    )


def revised_loaders(plugin: MixturePlugin, revision: Revision | None) -> dict[str, Loader]:
    """Return what loads the states of plugins after a revision; empty: nothing has changed.

    Args:
        plugin: The run's mixture, over the domains afterwards.
        revision: What has changed; None: nothing.
    """
    if revision is None or revision.is_none:
        return {}

    def load(state: Mapping[str, Any]) -> None:
        plugin.load_revised_state_dict(
            state,
            revision.change,
            cursors=revision.cursors,
            same_measurement=revision.same_measurement,
        )

    return {plugin.name: load}
