"""What a run does about loss spikes: it logs them, leaves batches out, stops, or goes back."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from megadga.arrays import FloatArray
from megadga.config.sections import LossSpikeSection
from megadga.errors import LossSpikeError
from megadga.plugin import Batch, Metrics
from megadga.run_folder.rewinds import Rewind, write_rewinds
from megadga.train.checkpoints import Checkpoints, check_intact, find_resume_point
from megadga.train.ranks import Ranks, on_first_rank
from megadga.train.spikes import LossSpikes, Spike

_KEY = "watch.loss_spike"


class Returns(Protocol):
    """Returns to the last checkpoint, and the batches that they leave out."""

    def leaves_out(self, step: int) -> bool:
        """Return whether the batch of a step is left out."""
        ...

    def __call__(self, spike: Spike, *, batches: int, limit: int) -> None:
        """Go back, and leave out the batch of a spike and those before it. Collective."""
        ...


@final
class SpikeResponse:
    """Decides which updates are applied, and what follows a loss spike.

    A batch that is left out is drawn, and its losses are computed, measured by probes and
    observed by the mixture, as any batch's; the optimizer does not step. So ``step`` counts
    batches, and the run has one update fewer.

    Args:
        section: What to do; None: nothing, and only batches left out earlier are left out again.
        spikes: Finds spikes; None without a section.
        returns: Goes back to the last checkpoint.
        newest: Returns the newest checkpoint for messages, None if there is none.
        log: Logs the records of a step.
    """

    def __init__(
        self,
        section: LossSpikeSection | None,
        spikes: LossSpikes | None,
        *,
        returns: Returns,
        newest: Callable[[], Path | None],
        log: Callable[[int, Metrics], None],
    ) -> None:
        self._section = section
        self._spikes = spikes
        self._returns = returns
        self._newest = newest
        self._log = log
        self._applied = True

    @property
    def applied(self) -> bool:
        """Whether the latest step updated the model."""
        return self._applied

    def accepts(self, batch: Batch, losses: FloatArray) -> bool:
        """Decide whether the update of a step is applied. Not collective.

        Args:
            batch: Its batch.
            losses: Mean loss of each sequence of the global batch, shape ``(B,)``.
        """
        skips = self._section is not None and self._section.on_spike == "skip"
        spike = skips and self._spikes is not None and self._spikes.is_spike(losses)
        self._applied = not (spike or self._returns.leaves_out(batch.step))
        return self._applied

    def after_step(self, step: int, train: dict[str, Any], *, finite: bool) -> bool:
        """Do what follows from a step. Collective.

        Args:
            step: From 1.
            train: Its ``train`` record.
            finite: Whether its losses and gradient are, which is logged elsewhere if not.

        Returns:
            Whether the run has gone back to a checkpoint.

        Raises:
            LossSpikeError: If the run is to end; on every rank.
        """
        if self._returns.leaves_out(step):
            self._log(step, {"event": {"event": "batch_left_out", "loss": train["loss"]}})
            return False
        if self._section is None or self._spikes is None:
            return False
        spike = self._spikes.latest(finite=finite)
        action = self._section.on_spike
        # A batch that was skipped has not touched the model: the step counts as finite.
        if spike is None or (action in ("warn", "skip") and not finite):
            return False
        self._log(step, spike.event(train, action=action))
        self._respond(spike, self._section)
        return action == "rewind"

    def _respond(self, spike: Spike, section: LossSpikeSection) -> None:
        match section.on_spike:
            case "warn":
                pass
            case "skip":
                self._check_limit(spike, section.limit)
            case "stop":
                advice = f"--set {_KEY}.on_spike=skip goes on without the batch"
                raise LossSpikeError(f"{self._describe(spike)}; {advice}")
            case "rewind":
                self._returns(spike, batches=section.rewind_batches, limit=section.limit)

    def _check_limit(self, spike: Spike, limit: int) -> None:
        assert self._spikes is not None
        if self._spikes.in_a_row > limit:
            raise LossSpikeError(
                f"{self._describe(spike)}; expected at most {limit} in a row ({_KEY}.limit)"
            )

    def _describe(self, spike: Spike) -> str:
        newest = self._newest()
        kept = "no checkpoint was written" if newest is None else f"the newest one is {newest}"
        return f"step {spike.step}: {spike.describe()}; no checkpoint was written since, {kept}"


@final
class CheckpointReturns:
    """Goes back to the last checkpoint on the live engine; ``Returns``.

    What is left out is in the run's folder before anything is loaded: a run that ends in between
    leaves the same batches out when it is resumed.

    Args:
        output: The run's folder.
        rewinds: Its returns so far, equal on every rank.
        checkpoints: Its checkpoints.
        folder: Their folder.
        identity: The run's identity; see ``CheckpointHeader``.
        allowed: Keys that the user allows to change.
        ranks: All ranks.
        log: Logs the records of a step.
    """

    def __init__(
        self,
        output: Path,
        rewinds: Sequence[Rewind],
        *,
        checkpoints: Checkpoints,
        folder: Path,
        identity: Mapping[str, Any],
        allowed: Collection[str] = (),
        ranks: Ranks,
        log: Callable[[int, Metrics], None],
    ) -> None:
        self._output = output
        self._rewinds = tuple(rewinds)
        self._checkpoints = checkpoints
        self._folder = folder
        self._identity = identity
        self._allowed = allowed
        self._ranks = ranks
        self._log = log

    def leaves_out(self, step: int) -> bool:
        """Return whether the batch of a step is left out."""
        return any(step in rewind.left_out for rewind in self._rewinds)

    def __call__(self, spike: Spike, *, batches: int, limit: int) -> None:
        """Go back, and leave out the batch of a spike and those before it. Collective.

        Args:
            spike: After the newest checkpoint.
            batches: How many are left out, at least 1; those before the checkpoint stay.
            limit: Returns to one checkpoint, at least 1.

        Raises:
            LossSpikeError: If there is no checkpoint, or the limit is reached; on every rank.
            ResumeError: If the checkpoint is damaged.
        """
        found = f"step {spike.step}: {spike.describe()}"
        self._checkpoints.finish()
        newest = self._checkpoints.newest
        if newest is None:
            raise LossSpikeError(f"{found}; expected a checkpoint to go back to, found none yet")
        before = sum(rewind.checkpoint == newest.name for rewind in self._rewinds)
        if before >= limit:
            raise LossSpikeError(
                f"{found}; expected at most {limit} returns to {newest} ({_KEY}.limit)"
            )
        point = find_resume_point(
            self._folder,
            identity=self._identity,
            ranks=self._ranks,
            wanted=newest.name,
            allowed=self._allowed,
        )
        assert point is not None
        check_intact(point, self._ranks)
        first = max(point.header.step, spike.step - batches) + 1
        left_out = tuple(s for s in range(first, spike.step + 1) if not self.leaves_out(s))
        rewind = Rewind(spike.step, newest.name, left_out, spike.describe())
        self._rewinds = (*self._rewinds, rewind)
        on_first_rank(self._ranks, lambda: write_rewinds(self._output, self._rewinds))
        self._checkpoints.resume(point)
        self.log_left_out(point.header.step)

    def log_left_out(self, step: int) -> None:
        """Log what is left out after a step that the run continues from, if anything is."""
        for rewind in self._rewinds:
            if left_out := [each for each in rewind.left_out if each > step]:
                event = {"event": "rewind", "from_step": rewind.step, "reason": rewind.reason}
                more = {"checkpoint": rewind.checkpoint, "left_out": left_out}
                self._log(step, {"event": {**event, **more}})
