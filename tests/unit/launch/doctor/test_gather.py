"""One host's side of the connection, and what it finds on this machine."""

import io
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from megadga.launch.doctor.gather import (
    ANSWER,
    HostQuery,
    HostReport,
    answer,
    hash_code,
    own_software,
    port_error,
)


def hold(folder: Path, *lines: list[str], port: int | None = None) -> list[Any]:
    """Hold a connection; return the answers."""
    request = HostQuery(str(folder), "mark", "localhost", port, ops=(), environment={})
    asked = [json.dumps(asdict(request)), *map(json.dumps, lines)]
    answers = io.StringIO()
    answer("h7", io.StringIO("".join(f"{line}\n" for line in asked)), answers)
    return [json.loads(line.removeprefix(ANSWER)) for line in answers.getvalue().splitlines()]


def test_a_host_reports_itself_and_leaves_nothing(tmp_path: Path) -> None:
    (said,) = hold(tmp_path)
    report = HostReport.from_json(said)
    assert (report.host, report.folder_error, report.interface) == ("h7", "", "lo")
    assert report.software == own_software()
    assert report.devices >= 1
    assert list(tmp_path.iterdir()) == []


def test_a_host_says_which_files_it_sees_its_own_among_them(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "stale").write_text("")  # its content has not arrived
    _, seen = hold(tmp_path, ["mark", "theirs", "stale", "absent"])
    assert seen == ["mark", "theirs"]


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (said,) = hold(tmp_path / "absent")
    assert said["folder_error"] == "no such file or directory"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_is_in_use_while_something_listens_there(tmp_path: Path, listener: int) -> None:
    (said,) = hold(tmp_path, port=listener)
    assert said["port_error"] == "is in use"


def test_a_port_that_was_left_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert port_error(port) == ""


def test_code_is_the_same_only_if_names_and_contents_are(tmp_path: Path) -> None:
    for name, files in {
        "one": {"a.py": "x", "b/c.py": "y", "notes.txt": "1"},
        "same": {"a.py": "x", "b/c.py": "y", "notes.txt": "2"},
        "content": {"a.py": "x", "b/c.py": "z"},
        "moved": {"a.py": "xy", "b/c.py": ""},
        "renamed": {"a.py": "x", "b/d.py": "y"},
    }.items():
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
    hashes = {path.name: hash_code(path) for path in tmp_path.iterdir()}
    assert hashes.pop("same") == hashes["one"]
    assert len(set(hashes.values())) == len(hashes)
