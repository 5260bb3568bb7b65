"""The plugin in a DeepSpeed loop of somebody else: batches, updates, state, complaints."""

from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.shards import write_sets


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What the worker saw on 1, 2 and 4 ranks."""
    root = tmp_path_factory.mktemp("plugin")
    folder = write_sets(root / "sets", num_domains=3)
    worker = "tests.distributed.workers.mixture"
    return {n: run_ranks(worker, n, root, str(folder)) for n in (1, 2, 4)}


@pytest.fixture(params=[1, 2, 4])
def report(reports: dict[int, Any], request: pytest.FixtureRequest) -> Any:
    return reports[request.param]


def test_same_sequences_on_any_number_of_ranks_until_weights_differ_by_rounding(
    reports: dict[int, Any],
) -> None:
    before_first_update = [reports[n]["run"]["sequences"][:4] for n in (1, 2, 4)]

    assert before_first_update[0] == before_first_update[1] == before_first_update[2]
    assert [row for row, _, _ in before_first_update[0][0]] == list(range(8))


def test_updates_come_every_interval_and_agree_on_all_ranks(report: Any) -> None:
    records = report["run"]["records"]

    assert [list(record) for record in records] == [[], [], [], ["update"], [], []]
    averaged = records[3]["update"]["averaged_weights"]
    assert set(averaged) == {"d0", "d1", "d2"}
    assert averaged["d1"] == max(averaged.values())  # the specific set resembles d1
    assert all(w == list(averaged.values()) for w in report["run"]["weights_by_rank"])


def test_a_reloaded_state_continues_with_the_same_sequences(report: Any) -> None:
    run = report["run"]

    assert run["resumed_weights"] == run["weights_by_rank"][0]
    for uninterrupted, resumed in run["same_plans"]:
        assert uninterrupted == resumed


def test_batches_hold_the_windows_that_the_indices_name(report: Any) -> None:
    assert report["tokens"] is True


def test_alignments_that_are_not_finite_skip_the_update_and_say_so(report: Any) -> None:
    event = report["poisoned"]["record"]["event"]

    assert report["poisoned"]["moved"] is False
    assert list(report["poisoned"]["record"]) == ["event"]
    assert event["event"] == "update_skipped"
    assert event["domains"] == ["d0", "d1", "d2"]
    assert event["num_skipped"] == 1


def test_complaints_name_expected_and_found(report: Any) -> None:
    complaints = report["complaints"]

    assert complaints["out of step"].startswith("ValueError: after_step: expected step 1")
    assert complaints["other seed"].startswith("ResumeError: checkpoint: seed: expected 6")
    assert complaints["other domains"].startswith("ResumeError: checkpoint: domains: expected")
    assert "expected weights over 3 domains" in complaints["wrong number of weights"]
    assert "interval: expected at least 1" in complaints["interval"]


def test_a_cap_ends_training_only_when_the_data_are_used_up(report: Any) -> None:
    assert report["exhausted"]["handed_out"] == report["exhausted"]["full_batches"]


def test_a_domain_that_batches_lack_keeps_its_estimate_until_it_is_refreshed(report: Any) -> None:
    updates = report["kept_estimates"]
    alignments = [update["alignments"]["d2"] for update in updates]
    errors = [update["standard_errors"]["d2"] for update in updates]

    assert alignments[0] == alignments[1] != alignments[2] == alignments[3] != alignments[4]
    for fresh, kept in ((0, 1), (2, 3)):
        assert errors[kept] == pytest.approx(2**0.5 * errors[fresh])
    for name in ("d0", "d1"):  # are in every batch
        assert len({update["alignments"][name] for update in updates}) == 5


def test_records_say_what_measuring_cost(report: Any) -> None:
    for update in report["kept_estimates"]:
        # 3 specific sequences an update, 2 of each of 3 domains every other, beside a batch of 8;
        # and what the batch's own measurement takes, along a whole direction.
        assert update["predicted_overhead"] == pytest.approx((3 + 2 * 3 / 2) / 8 + 0.35)
        assert update["probe_s"] > 0.0
        assert update["observed_overhead"] > 0.0


@pytest.mark.parametrize("method", ["directional-low-rank", "in_flight-low-rank"])
def test_a_reloaded_measurement_continues_with_equal_bits(report: Any, method: str) -> None:
    found = report["resumed"][method]

    assert len(found["uninterrupted"]) == 3
    assert found["resumed"] == found["uninterrupted"]
    assert found["forgetful"] != found["uninterrupted"]  # what is remembered does matter


def test_a_step_that_was_prepared_and_not_trained_leaves_no_hooks(report: Any) -> None:
    before, prepared, closed, failed = report["unfinished"]["hooks"]

    assert before == closed == failed < prepared
    assert report["unfinished"]["complaint"].startswith("in-flight probe: expected the ")
    assert report["unfinished"]["complaint"].endswith("found 0")


def test_a_rule_that_follows_losses_continues_in_the_middle_of_an_interval(report: Any) -> None:
    records, again = report["odm"]["records"], report["odm"]["again"]

    assert [list(record) for record in records] == [["update"], [], ["update"]]
    weights = list(records[-1]["update"]["averaged_weights"].values())
    assert weights[0] < weights[1] < weights[2]  # as the losses are
    assert again == records
