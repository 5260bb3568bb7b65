"""What ranks leave behind when they fail."""

import os
import socket
import subprocess
import sys

import pytest

from megadga.errors import ConfigError
from megadga.run_folder.failures import (
    FOLDER,
    clear_failures,
    describe_failure,
    first_failure,
    record_failures,
    record_start,
)


def fail(output, rank, error):
    with pytest.raises(type(error)), record_failures(output, rank=rank):
        raise error


def test_the_first_rank_to_fail_is_named_with_its_host(tmp_path):
    fail(tmp_path, 3, RuntimeError("Connection closed by\npeer [192.0.2.2]:1"))
    fail(tmp_path, 0, RuntimeError("Timed out"))
    os.utime(tmp_path / FOLDER / "0", ns=(0, 1))
    os.utime(tmp_path / FOLDER / "3", ns=(0, 0))

    expected = f"rank 3 on {socket.gethostname()}: RuntimeError: Connection closed by peer"
    assert first_failure(tmp_path) == f"{expected} [192.0.2.2]:1"


def test_user_errors_and_missing_folders_leave_no_record(tmp_path):
    fail(tmp_path, 0, ConfigError("run.yaml:1: expected"))
    fail(tmp_path / "missing", 0, RuntimeError("early"))
    assert first_failure(tmp_path) is None
    assert not (tmp_path / "missing").exists()


def test_the_final_message_has_the_code_and_the_recorded_failure(tmp_path):
    command = [sys.executable, "-m", "megadga.run_folder.failures", "7", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert said == "the run ended with code 7: no rank recorded a failure\n"
    fail(tmp_path, 1, RuntimeError("lost"))
    said = subprocess.run([*command, "a", "b"], check=True, capture_output=True, text=True).stderr
    failed = f"rank 1 on {socket.gethostname()}: RuntimeError: lost"
    assert said == f"the run ended with code 7: {failed}; lost hosts: a, b\n"


def test_records_of_an_earlier_start_are_removed(tmp_path):
    fail(tmp_path, 0, RuntimeError("once"))
    clear_failures(tmp_path)
    assert first_failure(tmp_path) is None


def test_a_hanging_rank_is_named_if_others_timed_out(tmp_path):
    for rank in range(3):
        record_start(tmp_path, rank=rank)
    assert describe_failure(tmp_path, 1) == "the run ended with code 1: no rank recorded a failure"
    for rank in (0, 2):
        fail(tmp_path, rank, RuntimeError("Timed out"))
    host = socket.gethostname()
    assert describe_failure(tmp_path, 1).endswith(
        f"Timed out; no failure record from rank 1 on {host}"
    )
    fail(tmp_path, 1, RuntimeError("so did I"))
    assert "no failure record" not in describe_failure(tmp_path, 1)
    clear_failures(tmp_path)
    assert describe_failure(tmp_path, 1) == "the run ended with code 1: no rank recorded a failure"


def test_only_some_of_many_ranks_without_record_are_named(tmp_path):
    for rank in range(12):
        record_start(tmp_path, rank=rank)
    fail(tmp_path, 0, RuntimeError("Timed out"))
    host = socket.gethostname()
    named = ", ".join(f"rank {rank} on {host}" for rank in (1, 2, 3, 4))
    assert describe_failure(tmp_path, 1, ["h"]).endswith(
        f"; no failure record from {named} and 7 more; lost hosts: h"
    )


def test_recording_a_start_in_an_unwritable_folder_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    record_start(tmp_path / "file", rank=0)
