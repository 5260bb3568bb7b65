"""What makes a record good or bad, shown on lines of JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.prepare.reading.records import (
    Content,
    Document,
    InvalidRecord,
    Keys,
    make_record,
    parse_file,
    parse_line,
)

TEXT = Keys()
ALL = Keys(text="text", id="id", domain="meta.source")


def read(parse, source, keys):
    return make_record(parse, source, keys, position=7, line=2, input_bytes=5)


def reason_of(line: bytes, keys=TEXT) -> str:
    reject = read(parse_line, line, keys)
    assert isinstance(reject, InvalidRecord)
    assert (reject.position, reject.line, reject.input_bytes) == (7, 2, 5)
    return reject.reason


def test_a_good_line_gives_text_id_and_domain():
    line = b'{"text": "\\u00e9\\ud83c\\udf89", "id": "x-1", "meta": {"source": "web"}}\r\n'
    assert read(parse_line, line, ALL) == Document("é🎉", 7, 2, "x-1", "web", 5)


def test_what_is_not_asked_for_is_not_looked_at():
    line = b'{"text": "a", "id": null, "meta": 3, "score": NaN}'
    assert parse_line(line, Keys()) == Content("a", None, None)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"content": {"text": "nested"}}, "nested"),
        ({"content": {"text": "nested"}, "content.text": "literal"}, "literal"),
    ],
)
def test_a_key_with_dots_goes_into_objects_unless_a_field_has_that_name(record, text):
    assert parse_line(json.dumps(record).encode(), Keys("content.text")).text == text


@pytest.mark.parametrize("number", [0, -7, 10**4000])
def test_an_integer_id_becomes_its_decimal_string(number):
    line = b'{"text": "a", "id": %s}' % str(number).encode()
    assert parse_line(line, Keys(id="id")).id == str(number)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "expected one JSON object, found Expecting property name enclosed in double"),
        (b'{"text": "a"} {}', "expected one JSON object, found Extra data"),
        (b'{"text": "\xff"}', "expected one JSON object, found 'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "expected one JSON object, found Unexpected UTF-8 BOM"),
        (b'{"text": "a", "n": %s}' % (b"1" * 5000), "expected one JSON object, found Exceeds the"),
        (b"[" * 100_000, "expected one JSON object, found maximum recursion depth exceeded"),
        (b'{"a":' * 100_000, "expected one JSON object, found maximum recursion depth exceeded"),
        (b'["a"]', "expected a JSON object, found an array"),
        (b"NaN", "expected a JSON object, found a number"),
        (b'{"content": "a", "id": 1}', "text: expected a string, found only content, id"),
        (b"{}", "text: expected a string, found only none"),
        (b'{"text": null}', "text: expected a string, found null"),
        (b'{"text": true}', "text: expected a string, found a boolean"),
        (b'{"text": 1}', "text: expected a string, found an integer"),
        (b'{"text": 1e3}', "text: expected a string, found a number"),
        (b'{"text": {}}', "text: expected a string, found an object"),
        (b'{"text": "\\ud83d"}', "text: expected Unicode text, found 'utf-8' codec can't encode"),
        (b'{"text": ""}', "text: expected text, found none"),
        (b'{"text": " \\n\\u3000"}', "text: expected text, found white space alone"),
        (b'{"a\\nb\\ud83d": 1}', r"text: expected a string, found only 'a\nb\ud83d'"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason(line, reason):
    assert reason_of(line).startswith(reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1}', "b.c: expected a string, found only a"),
        (b'{"b": {"d": 1, "e": 2}}', "b.c: expected a string, found only d, e in b"),
        (b'{"b": "x"}', "b.c: expected an object at b, found a string"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_led(line, reason):
    assert reason_of(line, Keys("b.c")) == reason


def test_a_reason_names_a_few_keys_and_not_all_of_a_long_one():
    line = json.dumps(dict.fromkeys(["k" * 50, *map(str, range(9))])).encode()
    cut = "k" * 40 + "..."
    assert reason_of(line) == (
        f"text: expected a string, found only {cut}, 0, 1, 2, 3, 4, 5, 6, ..."
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "expected a string or an integer, found only text"),
        (', "id": null', "expected a string or an integer, found null"),
        (', "id": true', "expected a string or an integer, found a boolean"),
        (', "id": 1.0', "expected a string or an integer, found a number"),
        (r', "id": "\udc00"', "expected Unicode text, found 'utf-8' codec can't encode"),
    ],
)
def test_a_bad_id_is_rejected_with_its_reason(value, reason):
    line = f'{{"text": "a"{value}}}'.encode()
    assert reason_of(line, Keys(id="id")).startswith(f"id: {reason}")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", "none"),
        ("..", ".."),
        (".git", ".git"),
        ("a/b", "a/b"),
        ("a\0b", r"'a\x00b'"),
        ("web\n", r"'web\n'"),
        ("\tweb", r"'\tweb'"),
        ("a\u2028b", r"'a\u2028b'"),
        ("a\u200bb", r"'a\u200bb'"),
        ("manifest.json", "manifest.json"),
        ("é" * 101, "é" * 40 + "..."),
    ],
)
def test_a_domain_that_cannot_name_a_folder_is_rejected(value, found):
    line = json.dumps({"text": "a", "from": value}).encode()
    assert reason_of(line, Keys(domain="from")) == (
        'from: expected a name for a folder, of printable characters, without "/", no "." at its '
        f"beginning, of 1 to 200 bytes, found {found}"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "expected a string, found only text"),
        (', "from": 3', "expected a string, found an integer"),
        (r', "from": "\udc00"', "expected Unicode text, found 'utf-8' codec can't encode"),
    ],
)
def test_a_domain_that_is_no_string_is_rejected(value, reason):
    line = f'{{"text": "a"{value}}}'.encode()
    assert reason_of(line, Keys(domain="from")).startswith(f"from: {reason}")


def test_a_domain_may_take_200_bytes():
    line = json.dumps({"text": "a", "from": "é" * 100}).encode()
    assert parse_line(line, Keys(domain="from")).domain == "é" * 100


@pytest.mark.parametrize(
    ("line", "empty"),
    [
        (b'{"text": " ", "id": 1}', True),
        (b'{"text": " "}', False),
        (b'{"text": " ", "id": null}', False),
        (b'{"text": null, "id": 1}', False),
    ],
)
def test_empty_are_those_with_no_other_fault(line, empty):
    reject = read(parse_line, line, Keys(id="id"))
    assert isinstance(reject, InvalidRecord)
    assert reject.empty == empty


@pytest.mark.parametrize(
    ("content", "keys", "reason", "empty"),
    [
        (b"caf\xe9", Keys(), "expected UTF-8 text, found 'utf-8' codec can't decode", False),
        (b"", Keys(), "expected text, found none", True),
        (b" \r\n", Keys(), "expected text, found white space alone", True),
        (b"a", Keys(id="id"), "id: expected a record with fields, found a plain text", False),
        (b"a", Keys(domain="from"), "from: expected a record with fields, found a plain", False),
    ],
)
def test_a_bad_file_of_text_is_rejected_with_its_reason(content, keys, reason, empty):
    reject = read(parse_file, content, keys)
    assert isinstance(reject, InvalidRecord)
    assert reject.reason.startswith(reason)
    assert reject.empty == empty


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc.") | st.text(), inner),
)
lines = st.binary() | st.builds(
    lambda record: json.dumps(record).encode(),
    st.fixed_dictionaries({}, optional=dict.fromkeys(["text", "id", "meta", "a\n"], json_values)),
)


@given(line=lines, keys=st.sampled_from([Keys(), ALL, Keys("meta.a", "meta.b")]))
def test_any_bytes_are_a_document_or_a_reject_of_one_line(line, keys):
    match read(parse_line, line, keys):
        case Document(text=text, id=id_, domain=domain):
            assert text.strip()
            assert (id_ is None, domain is None) == (keys.id is None, keys.domain is None)
            "".join([text, id_ or "", domain or ""]).encode()
        case InvalidRecord(reason=reason):
            assert len(reason.encode().splitlines()) == 1
