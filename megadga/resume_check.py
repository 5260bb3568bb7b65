"""Reports what a run would do with the checkpoint that it goes on from, without starting it."""

from collections.abc import Collection, Iterator
from pathlib import Path
from textwrap import wrap

from megadga.config.changes import (
    Change,
    ResumeChanges,
    check_allowed,
    check_changes,
    find_changes,
    layout_of,
    run_identity,
)
from megadga.config.run import RunConfig
from megadga.run_folder.checkpoints import (
    CHECKPOINTS,
    CheckpointHeader,
    find_checkpoint,
    header_path,
    load_header,
)
from megadga.run_folder.domains import read_domains
from megadga.train.data import RunData, open_data
from megadga.train.described import describe_domains
from megadga.train.opening import mixture_over
from megadga.train.revision_files import with_recorded_data
from megadga.train.revisions import check_unrevised, describe_revision, plan_revision
from megadga.train.waiting import format_bytes

_WIDTH = 96


def check_resume(
    config: RunConfig,
    *,
    world_size: int | None = None,
    resume_from: str | None = None,
    allowed: Collection[str] = (),
) -> Iterator[str]:
    """Yield what a resume would change, line by line; what is refused ends it with an error.

    Only the checkpoint's header is read.

    Args:
        config: The run.
        world_size: Ranks that it is meant for; None: as many as wrote the checkpoint.
        resume_from: Name of the checkpoint; None: the latest.
        allowed: Keys that the user allows to change.

    Raises:
        ConfigError: If the configuration contradicts the shards.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
        ResumeError: If there is no such checkpoint, its header is damaged, or the run may not go
            on from it; after the last line.
    """
    folder = config.output / CHECKPOINTS
    checkpoint = find_checkpoint(folder, wanted=resume_from)
    if checkpoint is None:
        check_allowed(allowed, None, {})
        yield f"{'checkpoint':<12}none in {folder}: the run would start at step 0"
        return
    header = load_header(checkpoint)
    ranks = layout_of(header.identity).ranks if world_size is None else world_size
    config = with_recorded_data(config, wanted=resume_from)
    data = open_data(config)
    describe_domains(config, data, is_new=False)
    identity = run_identity(config, shards=data.identity, ranks=ranks)
    changes = find_changes(header.identity, identity)
    check_allowed(allowed, changes, header.identity)
    steps = config.training.steps
    yield f"{'checkpoint':<12}{checkpoint}: {header.step:,} of {steps:,} steps"
    yield f"{'saved by':<12}{changes.before}"
    yield f"{'resumed by':<12}{changes.after}"
    yield f"{'states':<12}{_states(header, changes)}"
    yield f"{'changes':<12}{_count(changes)}"
    refused = changes.refused(allowed)
    for each in changes.changes:
        yield from _change(each, is_refused=each in refused)
    check_changes(changes, allowed=allowed, place=str(header_path(checkpoint)))
    yield from _domains(config, data, checkpoint, changes)


def _states(header: CheckpointHeader, changes: ResumeChanges) -> str:
    size = format_bytes(sum(file.bytes for file in header.files.values()))
    if changes.changes_layout:
        return (
            f"{size}, divided anew while they are loaded: a rank reads its own part; nothing is "
            "written"
        )
    return f"{size}, loaded as they are"


def _count(changes: ResumeChanges) -> str:
    number = len(changes.changes)
    return "none" if not number else f"{number:,} key{'' if number == 1 else 's'}"


def _change(change: Change, *, is_refused: bool) -> Iterator[str]:
    verdict = {"free": "", "allow": "with --allow: "}.get(change.row.verdict, "refused: ")
    if is_refused and change.row.verdict == "allow":
        verdict = f"refused without --allow {change.key}: "
    yield f"  {change}"
    yield from wrap(
        f"{verdict}{change.row.effect}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )


def _domains(
    config: RunConfig, data: RunData, checkpoint: Path, changes: ResumeChanges
) -> Iterator[str]:
    """Yield what becomes of the domains and the mixture's state."""
    mixture = mixture_over(config, data)
    record = read_domains(checkpoint)
    if record is None:
        check_unrevised(changes, checkpoint)
        yield f"{'domains':<12}unchanged"
        return
    identity = load_header(checkpoint).identity
    yield from describe_revision(plan_revision(config, data, mixture.scheduler, record, identity))
