"""What a view shows, in which rows, and how often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.terminal import PinnedRows
from megadga.train.live_view import LiveView, ShownWeights, Status, view_rows
from tests.support.screens import Screen

TRAIN = {"train": {"loss": 3.41234, "tokens_per_s": 128340.4, "learning_rate": 3e-4}}
WEIGHTS = {"code": 0.1, "books": 0.5, "web": 0.4}


def evaluation(qa, general, **more):
    return {"evaluation": {"specific": {"qa": qa, **more}, "domains": {}, "general": general}}


def update(**weights):
    return {"update": {"averaged_weights": weights}}


def begun(**more) -> Status:
    first = ShownWeights.of(0, WEIGHTS)
    return Status("runs/mine, 2 ranks on cpu", 400, first, first, **more)


def shown(status: Status, *, columns: int = 60, lines: int = 24) -> list[str]:
    rows = view_rows(status, columns=columns, lines=lines, bar="=")
    return [row.plain.rstrip() for row in rows]


def test_a_run_is_shown_with_its_losses_weights_and_last_event():
    status = (
        begun(left_s=3725.0)
        .after(10, {**evaluation(3.5, 4.0), **update(code=0.2, books=0.4, web=0.4)})
        .after(20, update(code=0.25, books=0.35, web=0.4))
        .after(20, {**TRAIN, **evaluation(3.25, 4.125)})
        .after(20, {"event": {"event": "loss_spike", "loss": 9.0}})
    )

    assert shown(status) == [
        "== runs/mine, 2 ranks on cpu ===============================",
        "step 20/400  =                              5%  1:02:05 left",
        "training  loss 3.412  128,340 tokens/s  learning rate 0.0003",
        "validation at 20  qa 3.250 -0.250  general 4.125 +0.125",
        "weights at 20                             since 10   since 0",
        "web    0.400  ==========================    +0.000    +0.000",
        "books  0.350  =======================       -0.050    -0.150",
        "code   0.250  ================              +0.050    +0.150",
        "last event  step 20: loss_spike (loss 9.0)",
    ]


def test_of_many_domains_the_largest_are_shown_and_the_others_together():
    weights = {f"c{number}": (1.0 + number) / 5050 for number in range(100)}
    status = Status("many", 10, ShownWeights.of(0, weights)).after(1, TRAIN)

    rows = shown(status, lines=16)

    assert [row.split()[:2] for row in rows[3:]] == [
        ["weights", "at"],
        ["c99", "0.020"],
        ["c98", "0.020"],
        ["c97", "0.019"],
        ["97", "more"],
    ]
    assert rows[-1].endswith("0.941")  # 1 - (100 + 99 + 98) / 5050


def test_losses_without_a_place_in_two_rows_are_counted():
    many = {f"set{number}": 1.0 for number in range(20)}
    rows = shown(begun().after(1, {**TRAIN, **evaluation(2.0, 3.0, **many)}), columns=60)
    at = rows.index(next(row for row in rows if row.startswith("validation")))
    listed = len(" ".join(rows[at : at + 2]).split("  ")) - 2  # the title, and the number
    assert rows[at + 1].endswith(f"  +{22 - listed}")


def test_a_name_moves_no_cursor():
    status = Status("\x1b[2J", 4, ShownWeights.of(0, {"a\rb": 1.0})).after(1, TRAIN)
    assert not any("\x1b" in row or "\r" in row for row in shown(status))


def test_a_revised_domain_has_no_change_before_it_came():
    status = begun().after(5, {**TRAIN, **update(books=0.5, new=0.5)})
    row = next(row for row in shown(status) if row.startswith("new"))
    assert row.split()[:2] == ["new", "0.500"]
    assert "+" not in row


def test_advice_is_the_last_event():
    advice = {"event": {"event": "advice", "finding": "noise", "text": "Probe more."}}
    assert shown(begun().after(3, {**TRAIN, **advice}))[-1] == (
        "last event  step 3: advice: Probe more."
    )


@given(
    columns=st.integers(1, 300),
    lines=st.integers(1, 100),
    names=st.lists(st.text(max_size=30), min_size=1, max_size=80, unique=True),
    sets=st.lists(st.text(max_size=12), max_size=9, unique=True),
    updated=st.booleans(),
)
def test_a_view_of_any_size_leaves_half_of_the_terminal_to_others(
    columns, lines, names, sets, updated
):
    weights = dict.fromkeys(names, 1.0 / len(names))
    status = Status("title", 9, ShownWeights.of(0, weights), ShownWeights.of(0, weights))
    status = status.after(3, update(**weights)) if updated else status
    losses = {"specific": dict.fromkeys(sets, 2.5), "domains": {}, "general": None}
    status = status.after(4, {**TRAIN, "evaluation": losses})

    rows = view_rows(status, columns=columns, lines=lines)

    assert len(rows) <= lines // 2
    assert bool(rows) == (columns >= 20 and lines >= 4)
    assert not any("\n" in row.plain for row in rows)


class Clock:
    """Time that passes between steps, and whenever it is asked for."""

    def __init__(self, *, asked_s: float) -> None:
        self.now_s = 0.0
        self._asked_s = asked_s

    def __call__(self) -> float:
        self.now_s += self._asked_s
        return self.now_s


@pytest.mark.parametrize(("frame_s", "between_s"), [(1e-4, 0.25), (0.03, 10.0), (0.3, 100.0)])
def test_frames_take_a_small_share_of_the_time(frame_s, between_s):
    # Drawing asks for the time once, before it knows how long that has taken.
    clock = Clock(asked_s=frame_s / 2)
    with Screen(lines=12, columns=60) as screen:
        rows = PinnedRows.on(screen.stream)
        assert rows is not None
        view = LiveView(rows, begun(), clock=clock)
        drawn_at_s: list[float] = []
        before = screen.lines()
        for step in range(1, 120):
            clock.now_s += between_s / 20.0
            view.log(step, TRAIN)
            if (lines := screen.lines()) != before:
                before = lines
                drawn_at_s.append(clock.now_s)
        view.close()

    gaps = np.diff(drawn_at_s)[1:]  # the first frame asks for the time once less
    assert gaps.min() >= between_s
    assert gaps.max() <= 1.2 * between_s  # the first step after it


def test_what_happens_is_said_above_at_once():
    with Screen(lines=12, columns=60) as screen:
        rows = PinnedRows.on(screen.stream)
        assert rows is not None
        view = LiveView(rows, begun(), clock=lambda: 0.0)
        view.log(0, {"event": {"event": "resume", "checkpoint": "step-00000003"}})
        assert screen.lines() == ["step 0: resume (checkpoint step-00000003)", *[""] * 11]
        view.log(1, TRAIN)
        view.log(2, {**TRAIN, **evaluation(2.0, 3.0)})
        assert screen.lines()[:2] == [
            "step 0: resume (checkpoint step-00000003)",
            "step 2: validation qa 2.000, general 3.000",
        ]
        view.close()


@pytest.mark.parametrize("lines", [4, 6, 8])
def test_a_low_terminal_shows_progress_first(lines):
    status = begun().after(1, {**TRAIN, **evaluation(2.0, 3.0)})
    rows = shown(status, lines=lines)
    assert len(rows) == min(3, lines // 2)
    assert rows[0].startswith("step 1/400")
