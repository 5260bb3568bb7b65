from collections.abc import Collection
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from megadga.errors import DivergedError
from megadga.train.loop import Run, train
from megadga.train.progress import NoProgress


class Log:
    """A run whose parts only write down that they were asked, and for which step."""

    def __init__(
        self,
        *,
        completed: int,
        total_steps: int,
        stop_at: int | None = None,
        unsound: Collection[int] = (),
        not_finite: Collection[int] = (),
        lost_at: int | None = None,
        goes_back: tuple[int, int] | None = None,
    ) -> None:
        self.goes_back = goes_back
        self.not_finite = not_finite
        self.told: list[str] = []
        self.pruned: list[int] = []
        self.logged: dict[int, Any] = {}
        self.mixture = SimpleNamespace(step=completed, next_batch=self._next_batch, probed_s=0.0)
        parts: dict[str, Any] = {
            "mixture": self.mixture,
            "trainer": SimpleNamespace(step=self._step),
            "plugins": tuple(
                SimpleNamespace(name=name, after_step=self._after_step(name)) for name in "ab"
            ),
            "metrics": SimpleNamespace(log=self.logged.__setitem__, settle=lambda: None),
            "checkpoints": SimpleNamespace(
                due=lambda step: step % 2 == 0,
                save=self._save,
                prune=self._prune,
                poll=lambda: None,
                finish=lambda: None,
                take_written=list,
            ),
            "storage": SimpleNamespace(take_events=list),
            "non_finite": SimpleNamespace(
                after_step=self._watch,
                at_lowest_scale=lambda step: nullcontext(),
                was_finite=True,
                check=self._check(lost_at),
                is_finite_model=lambda batch: batch.step not in unsound,
                skipped_checkpoint=lambda: {"event": "left out"},
                check_end=self._check(total_steps if total_steps in unsound else None),
            ),
            "spikes": SimpleNamespace(
                applied=True, after_step=lambda step, train, *, finite: self._go_back(step)
            ),
            "parameters": None,
            "progress": NoProgress(),
            "stalls": SimpleNamespace(enter=lambda step, phase: None),
            "requests": SimpleNamespace(after_step=self._apply_requests, resume=lambda: None),
            "stop": SimpleNamespace(agreed=lambda: self.mixture.step == stop_at),
            "markers": SimpleNamespace(end=self._end),
            "times": SimpleNamespace(
                begin=lambda probed_s: None,
                lap=lambda part, probed_s: None,
                record=lambda train: {},
            ),
        }
        self.run = Run(**parts, total_steps=total_steps)

    def _next_batch(self) -> Any:
        self.mixture.step += 1
        self.told.append(f"batch {self.mixture.step}")
        return SimpleNamespace(step=self.mixture.step)

    def _step(self, batch: Any) -> dict[str, Any]:
        self.told.append(f"train {batch.step}")
        return {"train": {"loss": 1.0}}

    def _after_step(self, name: str) -> Any:
        def after_step(step: int) -> dict[str, Any]:
            self.told.append(f"{name} {step}")
            return {name: {"seen": step}}

        return after_step

    def _apply_requests(self, step: int) -> list[dict[str, Any]]:
        assert step in self.logged  # after the update of the step
        self.told.append(f"requests {step}")
        return []

    def _watch(self, step: int, train: dict[str, Any]) -> dict[str, Any]:
        assert train == {"loss": 1.0}
        self.told.append(f"watch {step}")
        return {"event": "not finite"} if step in self.not_finite else {}

    def _check(self, step: int | None) -> Any:
        def check() -> None:
            if self.mixture.step == step:
                raise DivergedError

        return check

    def _go_back(self, step: int) -> bool:
        """Go back once, at a step, to another."""
        if self.goes_back is None or step != self.goes_back[0]:
            return False
        self.mixture.step, self.goes_back = self.goes_back[1], None
        return True

    def _save(self, step: int, evaluation: Any) -> None:
        assert step in self.logged  # a checkpoint covers what its step reported
        self.told.append(f"save {step}")

    def _prune(self) -> None:
        self.pruned.append(self.mixture.step)

    def _end(self, step: int, *, finished: bool) -> None:
        self.told.append(f"finished {step}" if finished else f"stopped {step}")


def test_a_step_is_batch_training_plugins_and_the_checkpoint_if_due():
    log = Log(completed=0, total_steps=2)

    assert train(log.run)

    assert log.told == [
        *("batch 1", "train 1", "a 1", "b 1", "requests 1", "watch 1"),
        *("batch 2", "train 2", "a 2", "b 2", "requests 2", "watch 2", "save 2"),
        "finished 2",
    ]
    assert log.logged[2] == {"train": {"loss": 1.0}, "a": {"seen": 2}, "b": {"seen": 2}}


def test_a_run_continues_after_the_steps_that_are_completed():
    log = Log(completed=3, total_steps=4)

    train(log.run)

    assert list(log.logged) == [4]


def test_a_completed_run_does_nothing():
    log = Log(completed=4, total_steps=4)

    assert train(log.run)

    assert log.told == ["finished 4"]


def test_a_run_that_is_to_stop_saves_first_whether_or_not_a_checkpoint_is_due():
    log = Log(completed=0, total_steps=4, stop_at=1)

    assert not train(log.run)

    assert log.told == [
        "batch 1",
        "train 1",
        "a 1",
        "b 1",
        "requests 1",
        "watch 1",
        "save 1",
        "stopped 1",
    ]


def test_a_stop_at_the_last_step_leaves_nothing_to_continue_with():
    log = Log(completed=3, total_steps=4, stop_at=4)

    assert train(log.run)

    assert log.told[-2:] == ["save 4", "finished 4"]


def test_a_model_that_is_not_finite_is_never_saved():
    log = Log(completed=0, total_steps=5, stop_at=4, unsound={2, 4})

    assert not train(log.run)

    assert not [line for line in log.told if "save" in line]
    assert log.told[-1] == "stopped 4"
    assert log.logged[2] == log.logged[4] == {"event": "left out"}


def test_a_diverged_run_is_neither_finished_nor_stopped():
    log = Log(completed=0, total_steps=9, lost_at=4)

    with pytest.raises(DivergedError):
        train(log.run)

    assert log.told[-2:] == ["requests 4", "watch 4"]


def test_a_run_whose_last_step_is_not_finite_does_not_finish():
    log = Log(completed=0, total_steps=4, unsound={4})

    with pytest.raises(DivergedError):
        train(log.run)

    assert "finished" not in "".join(log.told)


def test_a_run_that_goes_back_trains_from_there_and_saves_nothing_of_what_it_left():
    log = Log(completed=0, total_steps=4, goes_back=(4, 2))

    assert train(log.run)

    steps = [line for line in log.told if line.startswith(("train", "save"))]
    before = ["train 1", "train 2", "save 2", "train 3", "train 4"]
    assert steps == [*before, "train 3", "train 4", "save 4"]


def test_older_checkpoints_are_pruned_after_a_finite_step():
    log = Log(completed=0, total_steps=6, not_finite={3, 5})

    train(log.run)

    assert log.pruned == [1, 2, 4, 6, 6]  # the last time, at the end
    assert log.logged[3] == {"event": "not finite"}


def test_a_run_goes_on_with_the_data_that_a_revision_puts_in_force():
    log, told = Log(completed=0, total_steps=4), list[Any]()
    run: Any = log.run

    def in_force(name: str, mixture: Any) -> Any:
        mixture.names, mixture.observe_losses = (name,), f"losses of {name}"
        plugin = SimpleNamespace(
            name=name, after_step=lambda step: {name: told.append((name, step))}
        )
        return SimpleNamespace(plugin=mixture, plugins=(plugin,), content=f"content of {name}")

    def revise(step: int) -> dict[str, Any]:
        if step != 2:
            return {}
        log.mixture = SimpleNamespace(**vars(log.mixture))  # over other data, from that step on
        run.reviser.current = in_force("new", log.mixture)
        return {"event": "revised"}

    old = in_force("old", log.mixture)
    run.plugins, run.reviser = old.plugins, SimpleNamespace(current=old)
    run.revisions = SimpleNamespace(after_step=revise)
    run.trainer.revise = lambda names, observe: told.append((names, observe))
    run.checkpoints.revise = told.append

    assert train(run)

    revised = [(("new",), "losses of new"), "content of new"]
    assert told == [("old", 1), ("old", 2), *revised, ("new", 3), ("new", 4)]
    assert log.logged[2] == {"event": "revised"}
    assert run.mixture is log.mixture is not old.plugin
