"""Makes what watches a run from its configuration."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from megadga.config.run import RunConfig
from megadga.config.sections import WatchSection
from megadga.probes.discarding import check_discarding
from megadga.run_folder.rewinds import Rewind, read_rewinds
from megadga.run_folder.stacks import keep_earlier_stacks
from megadga.run_folder.stalls import StallWatch
from megadga.train.ranks import Ranks, on_every_rank, on_first_rank
from megadga.train.spikes import LossSpikes, SpikeRule
from megadga.train.start import RunStart


@final
@dataclass(frozen=True, eq=False)
class SpikeWatch:
    """What a run does about loss spikes, as far as it is known before its first step.

    Attributes:
        spikes: Looks for them; None: nothing does.
        rewinds: The run's returns to checkpoints so far, equal on every rank.
        drops_updates: Whether an update may be dropped, and so losses precede updates.
    """

    spikes: LossSpikes | None
    rewinds: tuple[Rewind, ...]
    drops_updates: bool


def watch_spikes(start: RunStart, engine: Any, ranks: Ranks) -> SpikeWatch:
    """Return what a run does about loss spikes. Collective.

    Args:
        start: What the run starts from.
        engine: DeepSpeed's.
        ranks: All ranks.

    Raises:
        ResumeError: If the rewinds cannot be read; on every rank.
        UnsupportedEngineError: If updates may be dropped, and that is not known to be exact on the
            engine.
    """
    section, output = start.config.watch, start.config.output
    rewinds = () if start.is_new else on_first_rank(ranks, lambda: read_rewinds(output))
    spikes = None
    if (found := section.loss_spike) is not None:
        names = [domain.name for domain in start.data.domains]
        spikes = LossSpikes(SpikeRule(found.sigma, found.window), names)
    drops = _drops_updates(section, rewinds, engine, step=start.completed)
    return SpikeWatch(spikes, rewinds, drops)


def _drops_updates(
    section: WatchSection, rewinds: Sequence[Rewind], engine: Any, *, step: int
) -> bool:
    """Return whether an update may be dropped after ``step``; see ``watch_spikes``."""
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
