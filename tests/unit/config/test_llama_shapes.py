import subprocess
import sys
from dataclasses import replace

import pytest

from megadga.config.llama_shapes import PRESETS, LlamaShape

SMALL = LlamaShape(
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=48,
    tied_embeddings=True,
)


def test_presets_have_the_sizes_their_names_promise():
    millions = {name: shape.num_parameters(32_000) / 1e6 for name, shape in PRESETS.items()}

    assert set(millions) == {"nano", "tiny", "8m", "30m", "125m", "350m", "750m", "1b", "7b"}
    assert PRESETS["nano"].num_parameters(0) == 18_592
    assert PRESETS["tiny"].num_parameters(8_192) == 1_836_160
    assert PRESETS["8m"].num_parameters(8_192) / 1e6 == pytest.approx(7.7, abs=0.1)
    assert PRESETS["30m"].num_parameters(8_192) / 1e6 == pytest.approx(29.9, abs=0.1)
    assert millions["125m"] == pytest.approx(109.5, abs=0.1)
    assert millions["350m"] == pytest.approx(341.1, abs=0.1)
    assert millions["750m"] == pytest.approx(728.7, abs=0.1)
    assert PRESETS["1b"].num_parameters(32_000) == 1_100_048_384  # TinyLlama 1.1B
    assert PRESETS["7b"].num_parameters(32_000) == 6_738_415_616  # Llama 2 7B


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers: expected at least 1, found 0"),
        ({"hidden_size": 36}, "hidden_size: expected a multiple of 2 \\* num_heads = 8, found 36"),
        ({"num_kv_heads": 3}, "num_kv_heads: expected a divisor of num_heads = 4, found 3"),
        ({"rope_theta": 1.0}, "rope_theta: expected more than 1, found 1.0"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_presets_import_without_torch():
    code = "import sys, megadga.config.llama_shapes; sys.exit('torch' in sys.modules)"

    finished = subprocess.run([sys.executable, "-c", code], check=False)

    assert finished.returncode == 0
