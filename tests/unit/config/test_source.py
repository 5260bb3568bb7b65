import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.config.yaml_source import dump, dump_line, parse, read_file
from megadga.errors import ConfigError

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126)) | st.sampled_from(
    ["1e-4", "no", "null", "~", "", "0", "-1_000", "true", "2024-01-01", "0x1F", "é"]
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.dictionaries(
    TEXTS, SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=3)
)


def place(line: int) -> str:
    return f"f:{line}"


@given(VALUES)
def test_what_is_dumped_reads_back_the_same(values):
    assert parse(dump(values), place).values == values


@given(VALUES)
def test_what_is_dumped_in_one_line_reads_back_the_same_behind_a_key(values):
    line = dump_line(values)
    assert line.index("\n") == len(line) - 1
    assert parse(f"mixing: {line}", place).values == {"mixing": values}


@given(VALUES, st.sampled_from([None, 2]), st.sampled_from([(", ", ": "), (",", ":")]))
def test_json_reads_as_it_is(values, indent, separators):
    text = json.dumps(values, indent=indent, separators=separators)
    assert parse(text, place).values == values


def test_json_may_be_indented_with_tabs(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": {"b": 1}}, indent="\t"))
    assert read_file(path).values == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("10_000", 10000),
        ("017", 17),
        ("no", "no"),
        ("'3'", "3"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("", None),
        ("true", True),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    found = parse(f"key: {text}", place).values["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_remembers_its_line():
    document = parse("a: 1\nb:\n  c: [x, {d: 2}]\n", place)
    assert document.places == {
        (): "f:1",
        ("a",): "f:1",
        ("b",): "f:2",
        ("b", "c"): "f:3",
        ("b", "c", 0): "f:3",
        ("b", "c", 1): "f:3",
        ("b", "c", 1, "d"): "f:3",
    }


def test_a_key_given_twice_is_an_issue_at_its_second_place():
    document = parse("a: {b: 1}\nc: 2\na: 3\n", place)
    (issue,) = document.issues
    assert (issue.path, issue.found) == (("a",), "it in f:1 as well")
    assert document.places["a",] == "f:3"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: [1", "f:2: expected YAML, found a syntax error: expected ',' or ']'"),
        ("a:\n\tb: 1", "f:2: expected YAML, found a syntax error: found character '\\t'"),
        ("a: &x 1\nb: *x", "f:1: expected YAML, found a syntax error: a value with an alias"),
        ("a: &x {b: *x}", "f:1: expected YAML, found a syntax error: a value with an alias"),
        ("a: !thing 1", "f:1: expected YAML, found a syntax error: the tag !thing"),
        ("[a, b]: 1", "f:1: expected YAML, found a syntax error: a key that is not a word"),
        ("a: 1\nb: \x00", "f:2: expected YAML, found the character '\\x00'"),
        ("a: 1\n---\nb: 1\n", "f:2: expected YAML, found a syntax error: but found another"),
    ],
)
def test_text_that_is_no_yaml_is_refused_in_one_line(text, complaint):
    with pytest.raises(ConfigError) as error:
        parse(text, place)
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.yaml: expected a readable file, found No such"):
        read_file(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: expected UTF-8 text, found invalid"):
        read_file(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="expected a readable file, found Is a directory"):
        read_file(tmp_path)
