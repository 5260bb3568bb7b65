import json

import pytest

from megadga.data.folder import find_domains
from megadga.demo.benchmark import prepare_shards
from megadga.errors import ConfigError
from tests.support.texts import made_up_texts


@pytest.fixture
def text(tmp_path):
    """A folder with two domains and the two splits of a target."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("a", "b", "qa.train", "qa.valid", "other"):
        lines = [json.dumps({"text": text}) for text in made_up_texts(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def test_files_become_domains_and_a_specific_set(text, tmp_path):
    domains, specific = prepare_shards(
        [f"{text}/[ab].jsonl"], [f"{text}/qa.*.jsonl"], tmp_path / "work", vocab_size=300
    )

    assert [source.name for source in find_domains(domains)] == ["a", "b"]
    assert specific.name == "qa"
    assert [source.path for source in find_domains(specific.parent)] == [specific]


def test_domains_without_a_specific_set_are_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="found one of them"):
        prepare_shards([f"{text}/[ab].jsonl"], None, tmp_path / "work", vocab_size=300)


def test_more_than_one_specific_set_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="expected one specific set, found other, qa"):
        prepare_shards(
            [f"{text}/[ab].jsonl"],
            [f"{text}/qa.*.jsonl", f"{text}/other.jsonl"],
            tmp_path / "work",
            vocab_size=300,
        )
