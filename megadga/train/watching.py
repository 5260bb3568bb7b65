"""Makes what watches a run from its configuration."""

import socket
from collections.abc import Sequence
from typing import Any

from megadga.config.run import RunConfig
from megadga.config.sections import WatchSection
from megadga.probes.discarding import check_discarding
from megadga.run_folder.rewinds import Rewind
from megadga.run_folder.stacks import keep_earlier_stacks
from megadga.run_folder.stalls import StallWatch
from megadga.train.ranks import Ranks, on_every_rank, on_first_rank
from megadga.train.spikes import LossSpikes, SpikeRule


def make_spikes(section: WatchSection, names: Sequence[str]) -> LossSpikes | None:
    """Return what looks for loss spikes; None if the run does not."""
    if (spikes := section.loss_spike) is None:
        return None
    return LossSpikes(SpikeRule(spikes.sigma, spikes.window), names)


def drops_updates(
    section: WatchSection, rewinds: Sequence[Rewind], engine: Any, *, step: int
) -> bool:
    """Return whether an update may be dropped after ``step``, and so losses precede updates.

    Raises:
        UnsupportedEngineError: If so, and that is not known to be exact on the engine.
    """
    responds = section.loss_spike is not None and section.loss_spike.on_spike in ("skip", "rewind")
    if not responds and not any(max(rewind.left_out) > step for rewind in rewinds):
        return False
    check_discarding(engine)
    return True


def watch_progress(config: RunConfig, engine: Any, ranks: Ranks) -> StallWatch:
    """Return what watches this rank's progress, after it has begun. Collective.

    A forward pass of the module counts as progress: evaluations and probes consist of them.
    """
    minutes = config.watch.no_progress_minutes
    hosts = ranks.objects(socket.gethostname())
    stalls = StallWatch(
        config.output,
        rank=ranks.rank,
        hosts=hosts,
        limit_s=None if minutes is None else minutes * 60.0,
    )
    on_first_rank(ranks, lambda: keep_earlier_stacks(config.output))
    on_every_rank(ranks, stalls.start)
    if minutes is not None:
        engine.module.register_forward_pre_hook(lambda *_: stalls.advance())
    return stalls
