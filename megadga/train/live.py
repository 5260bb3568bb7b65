"""Revises the data of a run between two optimizer steps, on every rank at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from megadga.config.changes import find_changes
from megadga.config.run import RunConfig
from megadga.data.order import WindowOrder
from megadga.data.verify import DataFileWatcher
from megadga.errors import ConfigError, MegadgaError
from megadga.plugin import Metrics, MixturePlugin, Plugin
from megadga.report.domains import write_domain_info
from megadga.run_folder.domain_log import WINDOWS
from megadga.run_folder.domains import DomainRecord, domain_files
from megadga.train.checkpoints import CheckpointContent
from megadga.train.data import RunData
from megadga.train.described import describe_domains
from megadga.train.mixture import Mixture
from megadga.train.opening import Opened, open_with_rule
from megadga.train.ranks import CollectiveFlag, Ranks, on_every_rank, on_first_rank
from megadga.train.revised import record_domains, revised_loaders
from megadga.train.revision_files import (
    Proposal,
    RecordedRevision,
    RevisionWatch,
    recorded_data,
    revised_config,
    write_revision,
)
from megadga.train.revisions import Revision, plan_revision

Apply = Callable[[Proposal, int], Revision | None]
"""Opens a revision's data on every rank and puts them in force after an optimizer step; returns
what has changed, None for nothing. Collective. A ``MegadgaError``, on every rank, leaves the run
as it was."""


@final
class LiveRevisions:
    """Applies the revisions of `data.revisions` at updates of the mixture.

    Rank 0 watches the file. That it has changed reaches the others in the all-reduce that every
    step makes anyway; only then, and only at an update, there is a collective more.

    Args:
        watch: Watches the file, on rank 0; None: on the others.
        ranks: All ranks.
        is_due: Whether the mixture is updated after an optimizer step, or never.
        apply: Applies a revision.
        record: Returns what is logged beside its event.
        windows: Returns the number of windows of each domain, by name.

    Attributes:
        flag: Whether a revision may be due; to be updated in every step.
    """

    def __init__(
        self,
        watch: RevisionWatch | None,
        *,
        ranks: Ranks,
        is_due: Callable[[int], bool],
        apply: Apply,
        record: Callable[[], Metrics],
        windows: Callable[[], Mapping[str, int]],
    ) -> None:
        self._watch = watch
        self._ranks = ranks
        self._is_due = is_due
        self._apply = apply
        self._record = record
        self._windows = windows
        self.flag = CollectiveFlag(lambda: watch is not None and watch.changed())

    def after_step(self, step: int) -> Metrics:
        """Apply a revision if one is due. Collective then.

        Returns:
            An ``event``: ``revision``, or ``revision_refused`` with the error; or nothing.
        """
        if not self.flag.raised() or not self._is_due(step):
            return {}
        try:
            proposal = on_first_rank(self._ranks, lambda: self._take(step))
            revision = None if proposal is None else self._apply(proposal, step)
        except MegadgaError as error:
            return {"event": {"event": "revision_refused", "error": str(error)}}
        if proposal is None:
            return {}
        if self._watch is not None and (revision is not None or proposal.is_recorded):
            self._watch.applied(proposal)
        if revision is None:
            return {}
        event: dict[str, Any] = {
            **revision.event(),
            "number": proposal.number,
            WINDOWS: self._windows(),
        }
        return {"event": event, **self._record()}

    def _take(self, step: int) -> Proposal | None:
        assert self._watch is not None
        return self._watch.take(step)


@final
@dataclass(frozen=True, eq=False)
class DataInForce:
    """The data that a run trains on, and what is made for them.

    Attributes:
        config: The run, with the section `data` in force.
        data: Opened.
        mixture: The rule over its domains.
        plugin: Gives batches of them.
        plugins: All plugins, the mixture's among them.
        files: Watches their files, on rank 0.
        identity: The run's identity with them.
        number: The revision in force; 0: none.
    """

    config: RunConfig
    data: RunData
    mixture: Mixture
    plugin: MixturePlugin
    plugins: tuple[Plugin, ...]
    files: DataFileWatcher
    identity: Mapping[str, Any]
    number: int

    def record(self) -> DomainRecord:
        """Return what a checkpoint says of the domains."""
        scheduler = self.mixture.scheduler
        return record_domains(self.plugin, scheduler, self.data, revision=self.number)

    @property
    def content(self) -> CheckpointContent:
        """What checkpoints are of: among their files one that says which domains they are of."""
        return CheckpointContent(self.plugins, self.identity, lambda: domain_files(self.record()))


Build = Callable[[RunConfig, RunData, Mixture, WindowOrder], tuple[Plugin, ...]]
"""Makes the plugins for data, the mixture's first. Collective."""


@final
class DataReviser:
    """Exchanges the data in force; its ``apply`` is an ``Apply``.

    Whoever trains goes on with what is ``current`` after that.

    Args:
        current: The data that the run starts with.
        ranks: All ranks.
        build: Makes plugins.
        identity: Returns the run's identity with some data, after checking that it is the same on
            every rank. Collective.

    Attributes:
        current: The data in force: after a revision, others.
    """

    def __init__(
        self,
        current: DataInForce,
        *,
        ranks: Ranks,
        build: Build,
        identity: Callable[[Opened], Mapping[str, Any]],
    ) -> None:
        self.current = current
        self._ranks = ranks
        self._build = build
        self._identity = identity

    def apply(self, proposal: Proposal, step: int) -> Revision | None:
        """Put a revision's data in force after an optimizer step; see ``Apply``. Collective."""
        before, ranks = self.current, self._ranks
        opened: list[Opened] = []
        revised = revised_config(before.config, proposal.data)
        on_every_rank(ranks, lambda: opened.append(open_with_rule(revised)))
        (config, data, mixture) = opened[0]
        identity = self._identity(opened[0])
        if refused := find_changes(before.identity, identity).refused():
            raise ConfigError(f"data.revisions: {refused[0]}")
        record = before.record()
        revision = plan_revision(config, data, mixture.scheduler, record, before.identity)
        if revision.is_none:
            if proposal.is_recorded:
                self.current = replace(before, number=proposal.number)
            return None
        files = on_first_rank(ranks, lambda: self._begin(config, data, proposal, step, revision))
        state = before.plugin.state_dict()
        before.plugin.close()
        plugins = self._build(config, data, mixture, revision.order)
        plugin = plugins[0]
        assert isinstance(plugin, MixturePlugin)
        load = revised_loaders(plugin, revision)[plugin.name]
        load(state)
        self.current = replace(
            before,
            config=config,
            data=data,
            mixture=mixture,
            plugin=plugin,
            plugins=plugins,
            files=files,
            identity=identity,
            number=proposal.number,
        )
        return revision

    def _begin(
        self, config: RunConfig, data: RunData, proposal: Proposal, step: int, revision: Revision
    ) -> DataFileWatcher:
        """Record a revision that is to be applied; on rank 0."""
        files = DataFileWatcher(data.files)
        write_domain_info(config.output, describe_domains(config, data, is_new=False))
        if not proposal.is_recorded:
            recorded = RecordedRevision(proposal.number, step, revision.hash, proposal.data)
            write_revision(config.output, recorded)
        return files


def opened_in_force(given: RunConfig, opened: Opened, checkpoint: Path, ranks: Ranks) -> Opened:
    """Return what a run goes on with from a checkpoint. Collective.

    Data are opened before the run's lock is taken: until then the process that had it may have
    applied a revision and written a later checkpoint.

    Args:
        given: The run, as it is configured.
        opened: What was opened for it, equal on every rank.
        checkpoint: The checkpoint's folder, which only rank 0 reads.
        ranks: All ranks.

    Raises:
        ResumeError: If the revision in force is missing or damaged; on every rank.
        MegadgaError: If its data cannot be opened; on every rank.
    """
    recorded = on_first_rank(ranks, lambda: recorded_data(given, checkpoint))
    config = given if recorded is None else revised_config(given, recorded)
    if config.data == opened[0].data:
        return opened
    reopened: list[Opened] = []
    on_every_rank(ranks, lambda: reopened.append(open_with_rule(config)))
    return reopened[0]
