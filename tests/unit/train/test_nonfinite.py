import math
from pathlib import Path
from typing import Any

import pytest
import torch

from megadga.errors import DivergedError
from megadga.probes.engine import LowestScaleError
from megadga.train.nonfinite import NonFiniteSteps
from tests.unit.train.fakes import VOCABULARY, BigramModel, LoneRank, batch

TOKENS = torch.randint(VOCABULARY, (2, 2, 6), generator=torch.Generator().manual_seed(0))
BATCH = batch(TOKENS, domains=[0, 0, 0, 0], rows=[[0, 1], [2, 3]])
LATEST = Path("out/checkpoints/step-00000002")


def watch(
    limit: int = 3, *, others: float = 0.0, latest: Path | None = LATEST, losses: Any = None
) -> NonFiniteSteps:
    model = BigramModel()
    return NonFiniteSteps(
        limit,
        losses=model if losses is None else losses,
        ranks=LoneRank(others=others),
        latest=lambda: latest,
    )


def record(*, web: float = 1.0, code: float = 2.0, grad_norm: float | None = 1.0, **more: Any):
    by_domain = {"web": web, "code": code}
    return {
        "loss": sum(by_domain.values()) / 2,
        "grad_norm": grad_norm,
        "sequences_by_domain": {"web": 3, "code": 1},
        "loss_by_domain": by_domain,
        **more,
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("key", "what", "domains"),
    [
        ("code", "loss", ["code"]),
        ("grad_norm", "gradient norm", []),
        ("reference", "reference loss", ["web"]),
    ],
)
def test_a_non_finite_step_is_logged_with_its_domains(bad, key, what, domains):
    more: dict[str, Any] = (
        {"reference_loss_by_domain": {"web": bad}} if key == "reference" else {key: bad}
    )

    event = watch().after_step(3, record(**more))["event"]

    assert event == {
        "event": "step_not_finite",
        "what": [what],
        "consecutive": 1,
        "limit": 3,
        "domains": ["web", "code"],
        "not_finite": domains,
    }


@pytest.mark.parametrize("grad_norm", [0.5, None])
def test_a_finite_step_gives_no_event(grad_norm):
    assert watch().after_step(1, record(grad_norm=grad_norm)) == {}


def test_the_run_ends_after_as_many_steps_in_a_row_as_are_allowed():
    steps = watch(limit=3)
    for step, loss in enumerate([math.nan, math.nan, 1.0, math.nan, math.nan], start=1):
        steps.after_step(step, record(web=loss))
        steps.check()

    steps.after_step(6, record(web=math.nan))

    with pytest.raises(DivergedError) as told:
        steps.check()
    assert str(told.value) == (
        "training: expected finite losses and gradients, found steps 4 to 6 without "
        "(training.non_finite_limit: 3); step 6: loss not finite, in a batch of web, code; "
        f"not finite: web; no checkpoint was written since, the newest one is {LATEST}"
    )


def test_a_message_names_a_few_domains_of_thousands():
    names = [f"d{index}" for index in range(3000)]
    steps = watch(limit=1, latest=None)
    steps.after_step(
        1,
        {
            "loss": math.nan,
            "grad_norm": None,
            "sequences_by_domain": dict.fromkeys(names, 1),
            "loss_by_domain": dict.fromkeys(names, math.nan),
        },
    )

    with pytest.raises(DivergedError, match="d7 and 2992 more; no checkpoint was written since"):
        steps.check()


def test_a_run_does_not_finish_on_a_step_that_is_not_finite_however_many_are_allowed():
    steps = watch(limit=1000)
    steps.check_end()
    steps.after_step(8, record(web=math.nan))
    steps.check()

    with pytest.raises(DivergedError, match="found steps 8 to 8 without"):
        steps.check_end()


def test_a_finite_model_may_be_saved():
    steps = watch()
    steps.after_step(1, record())

    assert steps.is_finite_model(BATCH)
    steps.check_end()


def test_a_model_is_not_saved_after_a_step_that_was_not_finite():
    steps = watch()
    steps.after_step(1, record(code=math.nan))

    assert not steps.is_finite_model(BATCH)
    assert "loss not finite" in steps.skipped_checkpoint()["event"]["reason"]


@pytest.mark.parametrize("here", [True, False])
def test_a_model_whose_weights_are_not_finite_is_not_saved_though_its_step_was(here):
    """The gradient may overflow where the loss does not; and on another rank than this."""
    model = BigramModel()
    if here:
        with torch.no_grad():
            model.scores[int(TOKENS[-1, 0, 0])] = math.nan
    steps = watch(losses=model, others=0.0 if here else 2.0)
    steps.after_step(1, record())

    assert not steps.is_finite_model(BATCH)
    with pytest.raises(DivergedError, match="losses of the model after it not finite"):
        steps.check_end()
    steps.after_step(2, record())
    steps.check_end()


def test_a_gradient_that_overflows_in_fp16_is_an_update_that_was_left_out():
    steps = watch(limit=1)

    event = steps.after_step(3, record(grad_norm=math.inf, loss_scale=65536.0))

    assert event == {"event": {"event": "update_overflowed", "loss_scale": 65536.0}}
    assert steps.was_finite
    steps.check()


def test_an_overflow_counts_where_the_loss_scale_cannot_be_lowered():
    steps = watch(limit=1)

    event = steps.after_step(3, record(grad_norm=math.inf, loss_scale=1.0))["event"]

    assert event["event"] == "step_not_finite"
    with pytest.raises(DivergedError) as error:
        steps.check()
    assert "at the lowest loss scale, 1 (deepspeed.fp16.min_loss_scale)" in str(error.value)


def test_that_deepspeed_gives_up_at_the_lowest_loss_scale_is_explained():
    with pytest.raises(DivergedError) as error, watch().at_lowest_scale(7):
        raise LowestScaleError(4.0)

    assert str(error.value) == (
        "training: expected gradients that float16 can hold, found an overflow in step 7 at the "
        "lowest loss scale, 4 (deepspeed.fp16.min_loss_scale): gradients are not finite or "
        "too large; precision: bf16, a lower learning rate or clipping may help; "
        "the newest one is out/checkpoints/step-00000002"
    )


def test_a_loss_that_is_not_finite_counts_in_fp16_too():
    steps = watch(limit=1)

    event = steps.after_step(3, record(web=math.nan, grad_norm=math.inf, loss_scale=1.0))["event"]

    assert event["event"] == "step_not_finite"
    assert not steps.was_finite
    with pytest.raises(DivergedError):
        steps.check()
