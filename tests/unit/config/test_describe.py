from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.config.validation import all_keys, describe, dotted, follow, leaves
from tests.support.runs import write_run


def test_a_value_comes_with_its_meaning_and_default(tmp_path):
    lines = list(describe(load_config(write_run(tmp_path))))
    at = lines.index("mixing.floor = 0.0")
    assert (
        lines[at + 1]
        == "    Least weight of a domain, in [0, 1 / domains]; 0: the paper. (default 0.0)"
    )
    at = lines.index("training.steps = 10")
    assert lines[at + 1] == "    Optimizer steps of the whole run, at least 1. (required)"


def test_every_value_is_described_under_its_dotted_key(tmp_path):
    config = load_config(write_run(tmp_path), ["mixing.initial={a: 0.5, b: 0.5}"])
    titles = {line.partition(" = ")[0] for line in describe(config) if not line.startswith(" ")}
    written = {dotted(path) for path, _ in leaves(config.model_dump(mode="json"))}
    assert written <= titles


def test_every_key_of_every_type_has_a_meaning():
    for path in all_keys(RunConfig):
        _, sections = follow(RunConfig, path[:-1])
        for section in sections:
            field = section.model_fields.get(str(path[-1]))
            assert field is None or field.description, dotted(path)


def test_a_choice_says_which_one_it_is(tmp_path):
    overrides = ["mixing.probe.type=in_flight", "mixing.probe.direction.energy=0.5"]
    lines = list(describe(load_config(write_run(tmp_path), overrides)))
    at = lines.index("mixing.probe")
    meaning = " ".join(line.strip() for line in lines[at + 1 : at + 8])
    assert "of the training batch's own sequences; other domains keep their last." in meaning
    at = lines.index("mixing.probe.direction.energy = 0.5")
    assert lines[at + 1].endswith("that is kept, in (0, 1]. (required)")
    assert "mixing.probe.direction.max_rank = 64" in lines
    lines = list(describe(load_config(write_run(tmp_path), ["mixing.preset=paper"])))
    at = lines.index("mixing.probe.direction = full")
    assert lines[at + 2].endswith("(default full)")
