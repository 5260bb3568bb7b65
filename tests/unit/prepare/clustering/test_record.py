import json

import pytest

from megadga.errors import ConfigError
from megadga.prepare.clustering.clusters import ClusteringRecord, read_record, write_record

RECORD = ClusteringRecord(
    embedder="tfidf",
    embedder_fingerprint="ab",
    embedder_path="embedder.npz",
    levels=(64, 4096),
    fingerprint="cd",
)


def test_what_is_written_reads_back_the_same(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version: expected 1, found 2"),
        ({"version": True}, "version: expected int, found bool true"),
        ({"embedder": "bow"}, "embedder: expected tfidf or sentence-transformers, found 'bow'"),
        ({"fingerprint": None}, "fingerprint: expected str, found NoneType null"),
        ({"levels": 64}, "levels: expected list, found int 64"),
        ({"levels": []}, "levels: expected at least one number of clusters, found none"),
        ({"levels": [64.0]}, r"levels: expected integers, found \[64.0\]"),
        ({"levels": [64, 65]}, "levels: expected a multiple of 64 that is larger, found 65"),
        ({"more\n": 1}, r"expected the keys version, .*found \['version', .*'more\\n'\]"),
    ],
)
def test_another_value_is_refused_by_its_key(tmp_path, changes, message):
    write_record(tmp_path, RECORD)
    path = tmp_path / "clusters.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError, match=f"^{path}: {message}$"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "expected an object, found list"),
        (b"{", "expected JSON, found Expecting"),
        (b"\xff", "expected JSON, found 'utf-8' codec"),
        (b"[" * 100_000, "expected JSON, found maximum recursion"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, content, message):
    (tmp_path / "clusters.json").write_bytes(content)
    with pytest.raises(ConfigError, match=f"clusters.json: {message}"):
        read_record(tmp_path)


def test_no_record_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"clusters\.json: expected a clustering, found No such"):
        read_record(tmp_path)
