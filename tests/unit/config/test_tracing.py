"""What a run with a trace is refused for, by name."""

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import RUN, write_run

CASES = {
    "training.precision=fp16": "training.precision: expected fp32 or bf16 with a trace",
    "watch.loss_spike.on_spike=skip": "watch.loss_spike.on_spike: expected warn or stop with a",
    "model.compile=true": "model.compile: expected false with a trace",
    "training.loss_reweighting={}": "training.loss_reweighting: expected null with a trace",
    "training.domain_weights=uniform": "training.domain_weights: expected null with a trace",
    "mixing={type: gradient_norm, resample: {}}": "mixing.resample: expected null with a trace",
    "data.revisions=live.yaml": "data.revisions: expected null with a trace",
    "data.packing=chat": "data.packing: expected stream with a trace",
    "deepspeed.optimizer={type: Lion}": "optimizer.type: expected SGD, Adam or AdamW with a trace",
    "deepspeed.optimizer={type: SGD, params: {momentum: 0.9}}": "params.momentum: expected 0 with",
    "deepspeed.optimizer.params.adam_w_mode=false": "params.adam_w_mode: expected true with",
    "deepspeed.zero_optimization.stage=0": "gradient_clipping: expected 0 with a trace under ZeRO",
}


@pytest.mark.parametrize(("override", "expected"), CASES.items(), ids=CASES)
def test_what_values_would_not_follow_from_is_refused_beside_a_trace(tmp_path, override, expected):
    path = write_run(tmp_path)
    load_config(path, [override])  # without a trace it may be
    with pytest.raises(ConfigError) as refused:
        load_config(path, [override, "trace={}"])
    assert expected in str(refused.value)


def test_a_trace_has_defaults_and_no_part_in_the_runs_identity(tmp_path):
    path = write_run(tmp_path, RUN)
    assert load_config(path).trace is None
    traced = load_config(path, ["trace={}"])
    assert traced.trace is not None
    assert (traced.trace.dimension, traced.trace.limit_gb) == (16, 100.0)
    assert load_config(path, ["trace.dimension=null"]).trace is not None
    assert traced.identity() == load_config(path).identity()
