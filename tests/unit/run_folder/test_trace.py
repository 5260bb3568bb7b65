"""Files of a trace: what they hold, how large they are, and what is wrong with them."""

from dataclasses import replace

import numpy as np
import pytest

from megadga.errors import ConfigError, ResumeError
from megadga.run_folder.trace import (
    TracedParameter,
    TracedStep,
    TraceHeader,
    open_trace,
    open_trace_file,
    trace_path,
)

HEADER = TraceHeader(
    rank=0,
    ranks=2,
    global_batch_size=6,
    sequence_length=8,
    seed=17,
    dimension=2,
    optimizer="AdamW",
    shards="0123",
    domains=("a", "é"),
    parameters=(TracedParameter("up.weight", (5, 3), (2, 2)), TracedParameter("b", (1,), (1,))),
)


def step(number):
    rng = np.random.default_rng(number)
    return TracedStep(
        number,
        0.99,
        rng.normal(size=2),
        rng.integers(2, size=3),
        rng.integers(1 << 40, size=3),
        rng.normal(size=(3, 5)).astype(np.float32).astype(np.float64),
    )


def write(output, header=HEADER, *, num_steps=3):
    path = trace_path(output, header.rank)
    path.parent.mkdir(exist_ok=True)
    frames = [step(number + 1).encoded() for number in range(num_steps)]
    path.write_bytes(header.encoded() + b"".join(frames))
    return path


def test_steps_come_back_as_they_were_written(tmp_path):
    file = open_trace_file(write(tmp_path))
    assert file.header == HEADER
    assert file.num_steps == 3
    for number in (3, 1, 2):
        expected, found = step(number), file.read(number)
        assert (found.step, found.kept) == (number, 0.99)
        for name in ("rates", "domains", "windows", "gradients"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_file_is_as_long_as_its_header_predicts(tmp_path):
    # 20 bytes, 8 for each of 2 parameters, 12 and 4 for each of 5 numbers of 3 sequences.
    assert HEADER.frame_bytes == 20 + 2 * 8 + 3 * (12 + 5 * 4)
    path = write(tmp_path)
    file = open_trace_file(path)
    assert path.stat().st_size == len(HEADER.encoded()) + 3 * HEADER.frame_bytes
    assert file.end_of(3) == path.stat().st_size
    assert file.end_of(0) == len(HEADER.encoded())


def test_a_frame_that_is_being_written_is_not_there_yet(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert open_trace_file(path).num_steps == 2


@pytest.mark.parametrize("place", [-1, -100], ids=["in the last step", "in the one before"])
def test_a_damaged_step_is_named(tmp_path, place):
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    number = 3 if -place < HEADER.frame_bytes else 2
    content[place if number == 3 else place - HEADER.frame_bytes] ^= 1
    path.write_bytes(content)
    expected = f"rank-00000.trace: step {number}: expected a sound frame, found another checksum"
    with pytest.raises(ConfigError, match=expected):
        open_trace_file(path).read(number)


def test_a_damaged_header_and_another_file_are_refused(tmp_path):
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected a sound header, found another checksum"):
        open_trace_file(path)
    path.write_bytes(b"something else")
    with pytest.raises(
        ConfigError, match=r"expected b'MDGATRC\\x01' at the beginning, found b'so"
    ):
        open_trace_file(path)
    path.unlink()
    with pytest.raises(ConfigError, match="expected a trace, found No such file or directory"):
        open_trace_file(path)


def test_the_files_of_all_ranks_are_opened_together(tmp_path):
    write(tmp_path)
    write(tmp_path, replace(HEADER, rank=1), num_steps=2)
    assert [file.num_steps for file in open_trace(tmp_path, num_steps=2)] == [3, 2]
    with pytest.raises(ConfigError, match=r"rank-00001.* the 3 steps of the checkpoint, found 2"):
        open_trace(tmp_path, num_steps=3)


def test_files_of_different_runs_are_no_trace(tmp_path):
    write(tmp_path)
    write(tmp_path, replace(HEADER, rank=1, seed=18))
    with pytest.raises(ResumeError, match=r"rank-00001.trace: seed: expected 17, .*, found 18"):
        open_trace(tmp_path, num_steps=1)
