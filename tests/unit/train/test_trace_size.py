from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.errors import ConfigError
from megadga.model.llama import Llama
from megadga.probes.sequence_gradients import Projection, find_pieces
from megadga.run_folder.trace import TracedParameter, TraceHeader
from megadga.train.trace_size import check_limit, predict_trace
from tests.support.runs import write_run

ROWS = 64


@pytest.mark.parametrize("dimension", [4, 16, None])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_the_predicted_size_is_that_of_the_frames_of_a_run(
    tmp_path: Path, dimension: int | None, ranks: int, tied: bool
) -> None:
    section = f"{{dimension: {'null' if dimension is None else dimension}}}"
    overrides = [f"trace={section}", f"model.tied_embeddings={str(tied).lower()}"]
    config = load_config(write_run(tmp_path), overrides)
    assert isinstance(config.model, LlamaModel)
    model = Llama(config.model.shape, vocabulary_size=ROWS, sequence_length=8, seed=0)
    pieces = find_pieces(model, Projection(dimension, seed=0))
    header = TraceHeader(
        rank=0,
        ranks=ranks,
        global_batch_size=config.training.global_batch_size,
        sequence_length=8,
        seed=0,
        dimension=dimension,
        optimizer="AdamW",
        shards="",
        domains=("a",),
        parameters=tuple(TracedParameter(p.name, p.shape, p.kept) for p in pieces),
    )

    found = predict_trace(config, config.model, ROWS, ranks=ranks)

    assert found.numbers == header.sizes.sum()
    assert found.num_bytes == ranks * config.training.steps * header.frame_bytes


def test_a_trace_may_be_as_large_as_its_limit_and_no_larger(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path), ["trace={}"])
    assert isinstance(config.model, LlamaModel)
    size = predict_trace(config, config.model, ROWS, ranks=1)
    limit = size.num_bytes / 1e9

    check_limit(load_config(write_run(tmp_path), [f"trace={{limit_gb: {limit}}}"]), size)

    less = load_config(write_run(tmp_path), [f"trace={{limit_gb: {0.99 * limit}}}"])
    with pytest.raises(ConfigError, match=f"trace.limit_gb: expected at least {limit:.4g}, for "):
        check_limit(less, size)
