from tests.support.ranks import run_ranks


def test_the_model_builds_in_parts_with_the_bits_of_the_whole(tmp_path):
    found = run_ranks("tests.integration.workers.model_under_zero_init", 2, tmp_path)

    for precision in ("float32", "bfloat16"):
        seen = found[precision]
        assert seen["same_weights"], precision
        assert seen["tables_are_float32"], precision
        assert seen["partition"] <= 0.51 * seen["parameters"]
        # This rank's half, and one whole matrix beside the float32 numbers it was drawn from.
        assert seen["peak"] <= seen["partition"] + 2 * seen["largest"] < 0.7 * seen["parameters"]
