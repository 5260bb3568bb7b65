import json

import pytest

from megadga.data.labels import Label, Labels, Parent, labels_path, read_labels, write_labels
from megadga.errors import ShardError

LABELS = Labels(
    {"c0": Label(("été", "ship", "sail", "mast", "deck", "tide"), ("A ship",)), "c1": Label(())},
    {"c0 of 1": Parent(("ship",), ("c0", "c1"))},
)


def test_labels_are_read_as_they_were_written(tmp_path):
    assert read_labels(tmp_path) is None
    write_labels(tmp_path, LABELS)
    assert read_labels(tmp_path) == LABELS


def test_beside_a_name_stand_five_words():
    assert LABELS.domains["c0"].text == "été, ship, sail, mast, deck"
    assert LABELS.domains["c1"].text == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 7}, r"labels\.json: version: expected 1, found 7"),
        (
            {"domains": {"c0": {"words": "sea"}}},
            r"domains\.c0\.words: expected a list, found str",
        ),
        ({"more": 1}, r"unknown: more"),
    ],
)
def test_damage_is_named(tmp_path, change, message):
    write_labels(tmp_path, LABELS)
    path = labels_path(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=message):
        read_labels(tmp_path)


def test_what_is_no_json_is_named(tmp_path):
    labels_path(tmp_path).write_text("{")
    with pytest.raises(ShardError, match=r"labels\.json: expected labels of domains, found"):
        read_labels(tmp_path)
