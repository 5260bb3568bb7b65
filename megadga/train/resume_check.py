"""What would happen to a run's domains and mixture if it were resumed now, without torch."""

from collections.abc import Iterator
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint, load_header
from megadga.run_folder.domains import read_domains
from megadga.train.data import no_checkpoint, open_data
from megadga.train.mixture import make_mixture
from megadga.train.revision_files import with_recorded_data
from megadga.train.revisions import check_unrevised, describe_revision, plan_revision


def describe_resume(config: RunConfig, *, wanted: str | None = None) -> Iterator[str]:
    """Yield lines about what a resume would carry over: cursors, epochs, weights, tokens left.

    Args:
        config: The run as it is to go on.
        wanted: Name of the checkpoint; None: the latest.

    Raises:
        ConfigError: If there is no checkpoint, or the configuration contradicts the shards.
        ResumeError: If the checkpoint is damaged, or no domain of it is left.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
    """
    checkpoint = find_checkpoint(config.output / CHECKPOINTS, wanted=wanted)
    if checkpoint is None:
        raise no_checkpoint(config)
    yield f"{'resumes':<12}{checkpoint}"
    yield from _describe(with_recorded_data(config, wanted=wanted), checkpoint)


def _describe(config: RunConfig, checkpoint: Path) -> Iterator[str]:
    identity = load_header(checkpoint).identity
    data = open_data(config)
    mixture = make_mixture(config, data.domains, excluded=data.excluded.keys(), basis=data.basis)
    record = read_domains(checkpoint)
    if record is None:
        check_unrevised(identity, {**config.identity(), "shards": data.identity}, checkpoint)
        yield f"{'domains':<12}unchanged"
        return
    yield from describe_revision(plan_revision(config, data, mixture.scheduler, record, identity))
