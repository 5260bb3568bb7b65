"""What a run with a trace may not do, as values of its sequences would not follow from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from megadga.config.deepspeed_keys import DEFAULT_CLIPPING, optimizer_name
from megadga.config.models import LlamaModel
from megadga.config.sections import DataSection, TrainingSection, WatchSection
from megadga.mixers.rule import RuleOptions
from megadga.section import ConfigIssue, format_value

_ADAM = ("Adam", "AdamW")
_RESPONSES = ("skip", "rewind")


def find_untraceable(sections: Mapping[str, Any]) -> Iterator[ConfigIssue]:
    """Yield each setting under which a trace is refused, with the reason.

    Args:
        sections: Those of the run that are valid, by key.
    """
    data: DataSection | None = sections.get("data")
    training: TrainingSection | None = sections.get("training")
    watch: WatchSection | None = sections.get("watch")
    settings: Mapping[str, Any] | None = sections.get("deepspeed")
    mixing: RuleOptions | None = sections.get("mixing")
    if data is not None:
        yield from _of_data(data)
    if mixing is not None and (share := mixing.resampled_uniformly) is not None:
        expected = "null with a trace, in which all sequences of a batch count the same"
        yield ConfigIssue(("mixing", "resample"), expected, f"{{uniform_share: {share:g}}}")
    if training is not None:
        yield from _of_training(training)
    spikes = None if watch is None else watch.loss_spike
    if spikes is not None and spikes.on_spike in _RESPONSES:
        expected = "warn or stop with a trace, which has every batch as applied once"
        yield ConfigIssue(("watch", "loss_spike", "on_spike"), expected, spikes.on_spike)
    if isinstance(model := sections.get("model"), LlamaModel) and model.compile:
        yield ConfigIssue(
            ("model", "compile"), "false with a trace: compiled blocks run no hooks", "true"
        )
    if settings is not None and training is not None:
        yield from _of_optimizer(settings, training)


def _of_data(data: DataSection) -> Iterator[ConfigIssue]:
    if data.revisions is not None:
        expected = "null with a trace, whose domains stay the same"
        yield ConfigIssue(("data", "revisions"), expected, str(data.revisions))
    if data.dialogues:
        expected = "stream with a trace: sequences of dialogues differ in their targets"
        yield ConfigIssue(("data", "packing"), expected, f"chat ({data.dialogues})")


def _of_training(training: TrainingSection) -> Iterator[ConfigIssue]:
    for key in ("loss_reweighting", "domain_weights"):
        if getattr(training, key) is not None:
            expected = "null with a trace, in which all sequences of a batch count the same"
            yield ConfigIssue(("training", key), expected, "a section")
    if training.precision == "fp16":
        expected = "fp32 or bf16 with a trace: steps whose gradients overflow are not in it"
        yield ConfigIssue(("training", "precision"), expected, "fp16")


def _of_optimizer(settings: Mapping[str, Any], training: TrainingSection) -> Iterator[ConfigIssue]:
    name = optimizer_name(settings)
    options: Mapping[str, Any] = settings.get("optimizer", {}).get("params") or {}
    place = ("deepspeed", "optimizer", "params")
    if name not in (*_ADAM, "SGD"):
        expected = "SGD, Adam or AdamW with a trace"
        yield ConfigIssue(("deepspeed", "optimizer", "type"), expected, format_value(name))
    if name == "SGD" and options.get("momentum"):
        expected = "0 with a trace: a gradient counts in the step that it is of"
        yield ConfigIssue((*place, "momentum"), expected, format_value(options["momentum"]))
    if name in _ADAM and options.get("adam_w_mode") is False:
        expected = "true with a trace: weight decay apart from the gradient"
        yield ConfigIssue((*place, "adam_w_mode"), expected, "false")
    zero: Mapping[str, Any] = settings.get("zero_optimization") or {}
    clipping = settings.get("gradient_clipping", DEFAULT_CLIPPING)
    if zero.get("stage", 0) == 0 and training.precision == "fp32" and clipping:
        expected = (
            "0 with a trace under ZeRO stage 0 in fp32, where DeepSpeed reports no gradient norm, "
            "or stage 1 or higher"
        )
        yield ConfigIssue(("deepspeed", "gradient_clipping"), expected, format_value(clipping))
