from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import RUN, write_run


def complaints(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path)
    return str(error.value).replace(f"{path.parent}/", "").splitlines()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "  probe: {type: directionl}",
            (
                "run.yaml:11: mixing.probe.type: expected 'directional', 'in_flight' or "
                "'sharded', found 'directionl'; did you mean 'directional'?"
            ),
        ),
        ("  probe: 3", "run.yaml:11: mixing.probe: expected a mapping, found 3"),
        (
            "  probe: {refresh_every: 3}",
            (
                "run.yaml:11: mixing.probe.refresh_every: expected one of direction, "
                "direction_interval, sequences_per_domain, specific_sequences, type, "
                "found 'refresh_every', a key of type in_flight"
            ),
        ),
        (
            "  probe: {type: in_flight, refresh_evry: 3}",
            (
                "run.yaml:11: mixing.probe.refresh_evry: expected a known key, "
                "found 'refresh_evry'; did you mean 'refresh_every'?"
            ),
        ),
        (
            "  probe: {refresh_evry: 3}",
            (
                "run.yaml:11: mixing.probe.refresh_evry: expected a known key, "
                "found 'refresh_evry'; did you mean 'refresh_every'?"
            ),
        ),
        (
            "  probe: {direction: half}",
            "run.yaml:11: mixing.probe.direction: expected 'full', found 'half'",
        ),
        (
            "  probe: {direction: {}}",
            "run.yaml:11: mixing.probe.direction.rank: expected a value, found nothing",
        ),
        (
            "  probe: {direction: {rank: 0}}",
            (
                "run.yaml:11: mixing.probe.direction.rank: expected a number greater than or "
                "equal to 1, found 0"
            ),
        ),
        (
            "  probe: {direction: {energy: 1.5}}",
            (
                "run.yaml:11: mixing.probe.direction.energy: expected a number less than or equal "
                "to 1, found 1.5"
            ),
        ),
        (
            "  probe: {direction: {energy: 0.5, max_rnk: 8}}",
            (
                "run.yaml:11: mixing.probe.direction.max_rnk: expected a known key, "
                "found 'max_rnk'; did you mean 'max_rank'?"
            ),
        ),
        (
            "  probe: {direction: {rank: 8, max_rank: 16}}",
            "run.yaml:11: mixing.probe.direction.max_rank: expected one of rank, found 'max_rank'",
        ),
        (
            "  probe: {type: sharded, direction: full}",
            (
                "run.yaml:11: mixing.probe.direction: expected one of sequences_per_domain, "
                "specific_sequences, type, found 'direction', "
                "a key of type directional or in_flight"
            ),
        ),
    ],
)
def test_an_issue_in_a_probe_is_reported_with_the_nearest_key(tmp_path, line, complaint):
    text = RUN.replace("  step_size: 0.5\n", f"  step_size: 0.5\n{line}\n")
    assert complaints(write_run(tmp_path, text)) == [complaint]


@pytest.mark.parametrize(
    ("probe", "kind"),
    [("{}", "directional"), ("{type: in_flight}", "in_flight"), ("{type: sharded}", "sharded")],
)
def test_a_probe_is_directional_unless_it_says_otherwise(tmp_path, probe, kind):
    config = load_config(write_run(tmp_path), [f"mixing.probe={probe}"])
    assert config.model_dump()["mixing"]["probe"]["type"] == kind
    paper = load_config(write_run(tmp_path), ["mixing.preset=paper"])
    assert paper.model_dump()["mixing"]["probe"] == {
        "type": "directional",
        "sequences_per_domain": 8,
        "specific_sequences": 32,
        "direction": "full",
        "direction_interval": 1,
    }


@pytest.mark.parametrize(
    ("overrides", "direction"),
    [
        (["mixing.probe.direction={rank: 8}"], {"rank": 8}),
        (["mixing.probe.direction.rank=8"], {"rank": 8}),
        (["mixing.probe.direction.energy=0.9"], {"energy": 0.9, "max_rank": 64}),
        (["mixing.probe.direction={energy: 0.9, max_rank: 4}"], {"energy": 0.9, "max_rank": 4}),
        (["mixing.probe.direction.rank=8", "mixing.probe.direction=full"], "full"),
        (["mixing.probe.type=in_flight", "mixing.probe.direction.rank=8"], {"rank": 8}),
    ],
)
def test_a_direction_is_overridden_as_a_whole_or_key_by_key(tmp_path, overrides, direction):
    config = load_config(write_run(tmp_path), overrides)
    assert config.model_dump(mode="json")["mixing"]["probe"]["direction"] == direction


@pytest.mark.parametrize(
    "probe",
    [
        "{type: directional}",
        "{type: sharded}",
        "{type: in_flight, direction: {energy: 0.5}, direction_interval: 3}",
        "{direction: {rank: 3}}",
    ],
)
def test_every_probe_reads_back_from_the_resolved_text(tmp_path, probe):
    config = load_config(write_run(tmp_path), [f"mixing.probe={probe}"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config
