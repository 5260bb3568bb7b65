"""When something is killed, and what: a table of moments, and plans drawn from it by a seed."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

from megadga.run_folder.checkpoints import header_path
from tests.faults.runs import STEPS, FaultyRun, Launched

_POLL_S = 0.0005


class Victim(Enum):
    """What is killed.

    ``LAUNCHER_AT_ONCE`` is started again while its ranks still end, as a supervisor would.
    """

    FIRST_RANK = "rank 0"
    OTHER_RANK = "rank 1"
    ALL_RANKS = "all ranks"
    LAUNCHER = "the launcher"
    LAUNCHER_AT_ONCE = "the launcher, and it is started again at once"
    EVERYTHING = "the launcher and all ranks"


@dataclass(frozen=True)
class Moment:
    """A time at which something is killed.

    Attributes:
        name: What the run does then.
        reached: Whether it does so now; called again and again. Takes the run, what was launched,
            and the step in its metrics when that was.
        lasts_s: Of how many seconds from then on one is drawn.
        own_steps: Steps to train first, at most.
    """

    name: str
    reached: Callable[[FaultyRun, Launched, int], bool]
    lasts_s: float
    own_steps: int = 3


def _started(_run: FaultyRun, job: Launched, _step: int) -> bool:
    return bool(job.ranks)


def _has_lock(run: FaultyRun, job: Launched, _step: int) -> bool:
    with suppress(OSError):
        text = (run.output / ".lock").read_text()
        return any(f'"process": {rank.pid},' in text for rank in job.ranks.values())
    return False


def _trains(run: FaultyRun, _job: Launched, step: int) -> bool:
    return run.step() > step


def _before(interval: int) -> Callable[[FaultyRun, Launched, int], bool]:
    """The step is trained that something follows before it is logged."""

    def reached(run: FaultyRun, _job: Launched, step: int) -> bool:
        found = run.step()
        return found > step and found % interval == interval - 1

    return reached


def _folders(run: FaultyRun) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(path for path in run.checkpoints.iterdir() if path.name.startswith("step-"))
    return []


def _latest(run: FaultyRun) -> str:
    with suppress(FileNotFoundError):
        return (run.checkpoints / "latest").read_text()
    return ""


def _writes(run: FaultyRun, _job: Launched, step: int) -> bool:
    latest = _latest(run)
    return run.step() > step and any(
        path.name > latest and not header_path(path).exists() for path in _folders(run)
    )


def _marks(run: FaultyRun, _job: Launched, step: int) -> bool:
    if (run.checkpoints / "latest.partial").exists():
        return run.step() > step
    latest = _latest(run)
    return run.step() > step and any(
        path.name > latest and header_path(path).exists() for path in _folders(run)
    )


def _has_marked(run: FaultyRun, _job: Launched, step: int) -> bool:
    latest = _latest(run)
    return run.step() > step and latest == f"step-{run.step():08d}"


def _prunes(run: FaultyRun, _job: Launched, step: int) -> bool:
    latest = _latest(run)
    return run.step() > step and any(
        path.name < latest and not header_path(path).exists() for path in _folders(run)
    )


def _revises(run: FaultyRun, _job: Launched, _step: int) -> bool:
    """It has recorded the revision, which comes with the first update, and not trained on."""
    return (run.output / "revisions" / "0001.yaml").exists() and run.step() <= REVISED


def _ends(run: FaultyRun, _job: Launched, _step: int) -> bool:
    return _latest(run) == f"step-{STEPS:08d}"


START_S = 10.0
"""From the start of ranks to the first step, about."""
MOMENTS = (
    Moment("it starts", _started, START_S),
    Moment("it resumes", _has_lock, 1.5),
    Moment("it trains", _trains, 0.2),
    Moment("it measures alignments", _before(4), 0.2),
    Moment("it evaluates", _before(6), 0.2),
    Moment("it writes a checkpoint", _writes, 0.05),
    Moment("it writes a checkpoint, near the end", _writes, 0.15),
    Moment("it replaces `latest`", _marks, 0.0),
    Moment("it has replaced `latest`", _has_marked, 0.01),
    Moment("it removes a checkpoint", _prunes, 0.0),
)
"""Ten of them, for as many kills of a run. What a run learns to do is one more line here."""
REVISED = 4
"""Step after which a domain enters: that of the first update."""
REVISION = Moment("it applies a revision", _revises, 0.02, own_steps=0)
END = Moment("it has written its last checkpoint", _ends, 0.0, own_steps=0)
VICTIMS = (
    Victim.FIRST_RANK,
    Victim.OTHER_RANK,
    Victim.OTHER_RANK,
    Victim.ALL_RANKS,
    Victim.ALL_RANKS,
    Victim.LAUNCHER,
    Victim.LAUNCHER_AT_ONCE,
    Victim.LAUNCHER_AT_ONCE,
    Victim.EVERYTHING,
    Victim.EVERYTHING,
)


@dataclass(frozen=True)
class Kill:
    """One kill of a plan.

    Attributes:
        moment: When.
        victim: What.
        after_s: Seconds after the moment has come.
        after_steps: Steps that are trained before the moment is waited for.
    """

    moment: Moment
    victim: Victim
    after_s: float
    after_steps: int

    def __str__(self) -> str:
        when = f"{self.after_s * 1e3:.0f} ms after {self.moment.name}"
        return f"{self.victim.value}, {when}, {self.after_steps} steps later or more"


def draw_kills(seed: int, stage: int, moments: Sequence[Moment] = MOMENTS) -> list[Kill]:
    """Return a kill for each moment, in an order and of victims that a seed decides."""
    rng = random.Random(f"{seed}/{stage}")
    victims = list(VICTIMS)
    rng.shuffle(victims)
    ordered = rng.sample(moments, len(moments))
    return [
        Kill(
            moment,
            victims[index % len(victims)],
            rng.uniform(0.0, moment.lasts_s),
            rng.randint(0, moment.own_steps),
        )
        for index, moment in enumerate(ordered)
    ]


def strike(run: FaultyRun, job: Launched, kill: Kill, *, timeout_s: float = 900.0) -> bool:
    """Wait for a kill's moment, and kill; return whether anything was killed.

    Nothing is if the run has finished before.
    """
    step = run.step() + kill.after_steps
    ends = time.monotonic() + timeout_s
    while not (len(job.ranks) > 0 and kill.moment.reached(run, job, step)):
        assert time.monotonic() < ends, f"never came: {kill}\n{run.end_of_log()}"
        if job.launcher.poll() is not None:
            return False
        job.look()
        time.sleep(_POLL_S)
    if kill.after_s:
        time.sleep(kill.after_s)
    job.look()
    victims = [each for each in _victims(job, kill.victim) if _kill(each)]
    return bool(victims)


def _victims(job: Launched, victim: Victim) -> Iterator[psutil.Process]:
    match victim:
        case Victim.FIRST_RANK | Victim.OTHER_RANK:
            # A rank that has not been started yet cannot be killed: the other one is.
            wanted = int(victim is Victim.OTHER_RANK)
            yield job.ranks.get(wanted) or next(iter(job.ranks.values()))
        case Victim.ALL_RANKS:
            yield from job.ranks.values()
        case Victim.LAUNCHER | Victim.LAUNCHER_AT_ONCE:
            yield job.launcher
        case Victim.EVERYTHING:
            yield job.launcher
            yield from job.ranks.values()


def _kill(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        if process.is_running():  # and is no other of the same number
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False
