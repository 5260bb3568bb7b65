from pathlib import Path

import numpy as np
import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.mixers.probing import Directional, Sharded
from megadga.mixers.updates import UpdateSteps
from megadga.train.data import open_data
from megadga.train.mixture import Mixture, make_mixture
from tests.support.extensions import write_extension
from tests.support.probes import sized
from tests.support.runs import write_run
from tests.support.shards import write_sets

PLACE = "override 1: mixing"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two domains, a specific set, and an installed extension."""
    monkeypatch.syspath_prepend(write_extension(tmp_path / "site", module="built_rule"))
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def mixture(folder: Path, keys: str, *overrides: str) -> Mixture:
    config = load_config(write_run(folder), [f"mixing={{type: staying, {keys}}}", *overrides])
    return make_mixture(config, open_data(config).domains)


def complaint(folder: Path, keys: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        mixture(folder, keys, *overrides)
    return str(error.value)


@pytest.mark.parametrize("observed", ["step", "losses"])
def test_a_rule_that_measures_nothing_comes_with_its_interval_alone(folder, observed):
    found = mixture(folder, f"interval: 3, observes: {observed}, initial: {{d0: 0.25, d1: 0.75}}")
    np.testing.assert_array_equal(found.scheduler.init().averaged_weights, [0.25, 0.75])
    assert (found.updates, found.probe) == (UpdateSteps(3), None)


def test_a_rule_that_observes_nothing_has_no_interval(folder):
    assert mixture(folder, "observes: nothing").updates is None
    assert complaint(folder, "observes: nothing, interval: 3") == (
        f"{PLACE}.interval: expected null: the rule never moves the weights, found 3"
    )


def test_alignments_are_measured_as_the_probe_says(folder):
    keys = "interval: 3, observes: alignments"
    assert mixture(folder, keys).probe == Directional()
    keys = f"{keys}, probe: {{type: sharded, sequences_per_domain: 2}}"
    assert mixture(folder, keys).probe == sized(Sharded(), 2, 32)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "observes: step",
            "interval: expected optimizer steps between updates of the weights, found nothing",
        ),
        (
            "interval: 1, observes: step, probe: {type: in_flight}",
            (
                "probe: expected null: the rule observes the step, and no alignments, "
                "found type in_flight"
            ),
        ),
        (
            "interval: 1, observes: losses, probe: {}",
            (
                "probe: expected null: the rule observes losses of training, and no alignments, "
                "found type directional"
            ),
        ),
        (
            "interval: 1, observes: norms, probe: {type: in_flight}",
            (
                "probe.type: expected directional or sharded: the rule observes norms of the "
                "domains' gradients, found 'in_flight'"
            ),
        ),
        (
            "interval: 1, initial: {d0: 0.5, dd1: 0.5}",
            (
                "initial: expected a weight for each of the 2 domains, found none for 1 (d1)\n"
                f"{PLACE}.initial.dd1: expected the name of a domain, found 'dd1'; "
                "did you mean 'd1'?"
            ),
        ),
    ],
)
def test_what_the_rule_does_not_observe_is_refused_with_the_reason(folder, keys, message):
    assert complaint(folder, keys) == f"{PLACE}.{message}"


@pytest.mark.parametrize("observed", ["domains", "reference"])
def test_what_no_run_measures_is_refused(folder, observed):
    assert complaint(folder, f"interval: 1, observes: {observed}").startswith(
        f"{PLACE}.type: expected a rule that observes what a run measures: alignments with the "
        "specific set, losses of training, the step, or nothing, found one that observes "
    )


def test_alignments_need_exactly_one_specific_set(folder):
    keys = "interval: 1, observes: alignments"
    assert complaint(folder, keys, "data.specific={}") == (
        "override 2: data.specific: expected exactly one set, which mixing.type staying aligns "
        "to, found none"
    )


def test_an_invalid_scheduler_of_an_extension_is_refused(folder):
    assert complaint(folder, "interval: 1, lost: 1") == (
        f"{PLACE}.type: expected a rule over 2 domains from staying = built_rule of "
        "some-rules 1.0, found weights of shape (1,)"
    )


def test_a_specific_set_belongs_to_the_data_of_a_rule_that_may_align_to_it(folder):
    config = load_config(write_run(folder), ["mixing={type: staying, interval: 1}"])
    assert open_data(config).identity["specific"].keys() == {"target"}
