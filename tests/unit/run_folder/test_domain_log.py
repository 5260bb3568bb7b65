"""The log by domain: what is written is read, damage is found, and a torn end is ignored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.run_folder.domain_log import (
    DOMAIN_LOG,
    EVALUATION,
    MAGIC,
    names_frame,
    read_domain_log,
    values_frame,
)

ABC = ("a", "b", "c")
WEIGHTS = np.array([0.1, 0.2, 0.7])


def frames(*parts):
    return MAGIC + b"".join(parts)


def write(folder, *parts):
    path = folder / DOMAIN_LOG
    path.write_bytes(frames(*parts))
    return path


def test_values_come_back_with_their_names_and_steps(tmp_path):
    path = write(
        tmp_path,
        names_frame(0, ABC),
        values_frame("averaged_weights", 4, 0, WEIGHTS),
        values_frame("averaged_weights", 8, 0, WEIGHTS[::-1]),
        values_frame("alignments", 8, 0, np.array([1.5, -2.0, np.nan])),
    )

    log = read_domain_log(path)

    assert log.keys == ("averaged_weights", "alignments")
    assert log.length == path.stat().st_size
    weights = log.series("averaged_weights")
    assert weights.names == ABC
    assert weights.steps.tolist() == [4, 8]
    assert weights.values.tolist() == [[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]]
    np.testing.assert_array_equal(log.at("alignments", 8), [1.5, -2.0, np.nan])


@given(st.lists(st.floats(width=64), min_size=3, max_size=3))
def test_weights_are_exact_and_all_else_is_rounded_once(tmp_path_factory, values):
    array = np.array(values)
    path = write(
        tmp_path_factory.mktemp("log"),
        names_frame(0, ABC),
        values_frame("weights", 1, 0, array),
        values_frame("gradient_norms", 1, 0, array),
    )

    log = read_domain_log(path)

    np.testing.assert_array_equal(log.at("weights", 1), array)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(log.at("gradient_norms", 1), array.astype(np.float32))


def test_a_domain_that_enters_or_leaves_has_no_value_while_it_is_not_there(tmp_path):
    path = write(
        tmp_path,
        names_frame(0, ("a", "b")),
        values_frame(EVALUATION, 2, 0, np.array([1.0, 2.0])),
        names_frame(1, ("b", "c")),
        values_frame(EVALUATION, 4, 1, np.array([3.0, 4.0])),
    )

    series = read_domain_log(path).series(EVALUATION)

    assert series.names == ABC
    np.testing.assert_array_equal(series.values, [[1.0, 2.0, np.nan], [np.nan, 3.0, 4.0]])


def test_of_two_values_for_a_step_the_later_one_holds(tmp_path):
    path = write(
        tmp_path,
        names_frame(0, ABC),
        values_frame("weights", 2, 0, WEIGHTS),
        values_frame("weights", 2, 0, WEIGHTS[::-1]),
    )

    assert read_domain_log(path).series("weights").values.tolist() == [[0.7, 0.2, 0.1]]


def test_an_end_that_is_torn_anywhere_is_ignored(tmp_path):
    whole = frames(names_frame(0, ABC), values_frame("weights", 1, 0, WEIGHTS))
    last = values_frame("weights", 2, 0, WEIGHTS)
    path = tmp_path / DOMAIN_LOG
    for length in range(len(last)):
        path.write_bytes(whole + last[:length])
        log = read_domain_log(path)
        assert log.steps("weights") == (1,)
        assert log.length == len(whole)
    path.write_bytes(whole + last[:-1] + b"\0")  # preallocated, and the machine went down
    assert read_domain_log(path).steps("weights") == (1,)


def test_a_bit_that_is_flipped_inside_is_found_wherever_it_is(tmp_path):
    first = values_frame("weights", 1, 0, WEIGHTS)
    content = frames(names_frame(0, ABC), first, values_frame("weights", 2, 0, WEIGHTS))
    path = tmp_path / DOMAIN_LOG
    begin = len(frames(names_frame(0, ABC)))
    for position in range(begin + 8, begin + len(first)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(
            ConfigError, match=rf"{DOMAIN_LOG}: byte {begin + 8}: expected a sound"
        ):
            read_domain_log(path)


def test_an_empty_file_has_no_values_and_another_one_is_refused(tmp_path):
    path = tmp_path / DOMAIN_LOG
    path.touch()
    assert read_domain_log(path).keys == ()
    with pytest.raises(ConfigError, match="expected values of 'weights', found none"):
        read_domain_log(path).series("weights")
    path.write_bytes(b"PK\x03\x04 an archive")
    with pytest.raises(ConfigError, match=r"expected b'MDGALOG.* at the beginning, found b'PK"):
        read_domain_log(path)


def test_a_log_that_is_cut_while_it_is_read_says_so(tmp_path):
    path = write(tmp_path, names_frame(0, ABC), values_frame("weights", 1, 0, WEIGHTS))
    log = read_domain_log(path)
    path.write_bytes(MAGIC)

    with pytest.raises(ConfigError, match="gone back to a checkpoint meanwhile"):
        log.series("weights")
