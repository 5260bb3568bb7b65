"""Records of a step as flat values."""

from megadga.plugin.protocol import flatten


def test_values_of_nested_records_get_joined_keys():
    metrics = {
        "update": {"weights": {"d0": 0.25, "a/b": 0.75}, "target_alignments": {"qa": {"d0": 1.0}}},
        "event": {"event": "update_skipped", "domains": ["d0", "d1"], "num_skipped": 2},
    }

    assert flatten(metrics, prefix="mixture") == {
        "mixture/weights/d0": 0.25,
        "mixture/weights/a/b": 0.75,
        "mixture/target_alignments/qa/d0": 1.0,
        "mixture/event": "update_skipped",
        "mixture/domains": "d0, d1",
        "mixture/num_skipped": 2,
    }


def test_what_is_not_known_is_left_out():
    metrics = {"update": {"observed_overhead": None, "probe_s": 0.0, "preconditioned": False}}

    assert flatten(metrics, prefix="m") == {"m/probe_s": 0.0, "m/preconditioned": False}
