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


def test_what_a_user_can_mend_and_a_folder_that_is_not_there_leave_nothing(tmp_path):
    fail(tmp_path, 0, ConfigError("run.yaml:1: expected"))
    fail(tmp_path / "missing", 0, RuntimeError("early"))
    assert first_failure(tmp_path) is None
    assert not (tmp_path / "missing").exists()


def test_a_last_line_has_the_code_and_who_failed_if_anybody_said_so(tmp_path):
    command = [sys.executable, "-m", "megadga.run_folder.failures", "7", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert said == "the run ended with code 7: no rank recorded a failure\n"
    fail(tmp_path, 1, RuntimeError("lost"))
    said = subprocess.run([*command, "a", "b"], check=True, capture_output=True, text=True).stderr
    failed = f"rank 1 on {socket.gethostname()}: RuntimeError: lost"
    assert said == f"the run ended with code 7: {failed}; lost hosts: a, b\n"


def test_an_earlier_start_is_forgotten(tmp_path):
    fail(tmp_path, 0, RuntimeError("once"))
    clear_failures(tmp_path)
    assert first_failure(tmp_path) is None


def test_a_rank_that_hangs_is_named_where_others_say_that_they_waited(tmp_path):
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


def test_of_many_ranks_without_a_word_some_are_named(tmp_path):
    for rank in range(12):
        record_start(tmp_path, rank=rank)
    fail(tmp_path, 0, RuntimeError("Timed out"))
    host = socket.gethostname()
    named = ", ".join(f"rank {rank} on {host}" for rank in (1, 2, 3, 4))
    assert describe_failure(tmp_path, 1, ["h"]).endswith(
        f"; no failure record from {named} and 7 more; lost hosts: h"
    )


def test_presence_in_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    record_start(tmp_path / "file", rank=0)
