import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.errors import ConfigError, ShardError
from tests.support.damage import damaged
from tests.support.examples import examples

SPECS = {"names": ArraySpec(("|u1",), 1), "basis": ArraySpec(("<f4", "<f8"), 2)}
ARRAYS = {"names": np.frombuffer(b"a\nb", dtype=np.uint8), "basis": np.eye(2, 3)}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("npz") / "some.npz"


@pytest.fixture(scope="module")
def sound(path) -> bytes:
    write_arrays(path, ARRAYS)
    return path.read_bytes()


def assert_equal(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist()


def write_member(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", content)


def npy(header: str, elements: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + elements


@given(
    hnp.arrays(
        st.sampled_from(["|u1", "<i8", "<f4", "<f8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    st.sampled_from("CF"),
)
def test_arrays_round_trip(path, array, order):
    array = np.asarray(array, order=order)
    write_arrays(path, {"a": array})
    found = read_arrays(path, {"a": ArraySpec((array.dtype.str,), array.ndim)})["a"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_equal_arrays_give_equal_bytes_at_any_time(path, sound, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_arrays(path, ARRAYS)
    assert path.read_bytes() == sound


def test_numpy_and_megadga_read_each_others_files(path):
    write_arrays(path, ARRAYS)
    with np.load(path) as found:
        assert_equal(dict(found), ARRAYS)
    np.savez(path, names=ARRAYS["names"], basis=ARRAYS["basis"])
    assert_equal(read_arrays(path, SPECS), ARRAYS)


def test_arrays_read_are_read_only(path):
    write_arrays(path, ARRAYS)
    with pytest.raises(ValueError, match="read-only"):
        read_arrays(path, SPECS)["basis"][0, 0] = 7.0


def test_objects_are_not_written(path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_arrays(path, {"a": np.array([{}])})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": ARRAYS["names"]}, r"members \['basis.npy', 'names.npy'\], found \['names.npy'"),
        ({**ARRAYS, "more": ARRAYS["names"]}, r"found \['basis.npy', 'more.npy', 'names.npy'\]"),
        ({**ARRAYS, "names": np.eye(2)}, r"names.npy: expected \|u1 of 1 dim.*, found <f8 of .*2"),
        ({**ARRAYS, "basis": np.ones(3)}, r"expected <f4 or <f8 of 2 dim.*, found <f8 of .*3"),
    ],
)
def test_other_arrays_than_expected_are_refused(path, arrays, message):
    write_arrays(path, arrays)
    with pytest.raises(ShardError, match=f"^{path}: .*{message}"):
        read_arrays(path, SPECS)


def test_a_duplicate_member_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(match="Duplicate name"):
            archive.writestr("a.npy", b"")
    with pytest.raises(ShardError, match=r"expected .*'a.npy'\], found .*'a.npy', 'a.npy'\]"):
        read_arrays(path, {"a": ArraySpec(("<f8",), 1)})


def test_a_pickle_is_refused_unread(path):
    np.savez(path, a=np.array([{}]))
    with pytest.raises(ShardError, match=r"a\.npy: expected an array of numbers, found "):
        read_arrays(path, {"a": ArraySpec(("|O",), 1)})


def test_compression_is_refused_before_it_is_unpacked(path):
    write_member(path, npy("{}", b"\0" * 10_000_000), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ShardError, match=r"a\.npy: expected no compression"):
        read_arrays(path, {"a": ArraySpec(("|u1",), 1)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(99999999999999999,)", "expected 799999999999999992 bytes for shape .*, found 8"),
        ("(0,)", "expected 0 bytes"),
        ("(9999999999999999999999,)", "expected an array of numbers"),
        ("(" + "1" * 60_000 + ")", "expected an array of numbers"),
        ("(-1,)", "expected an array of numbers"),
    ],
)
def test_a_shape_that_the_file_does_not_hold_is_refused_before_it_is_allocated(
    path, shape, message
):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n"
    write_member(path, npy(header, b"\0" * 8))
    with pytest.raises(ShardError, match=message):
        read_arrays(path, {"a": ArraySpec(("<f8",), 1)})


def test_a_missing_file_raises_the_requested_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none: expected an \.npz, found No such file"):
        read_arrays(tmp_path / "none", SPECS, error=ConfigError)


def read_content(path: Path, content: bytes):
    """Return the arrays of a file that holds ``content``, or what it was refused with."""
    path.write_bytes(content)
    try:
        return read_arrays(path, SPECS)
    except ShardError as error:
        return error


@examples(4)
@given(st.binary(max_size=400))
@example(b"PK\x05\x06" + b"\0" * 18)
@example(b"PK\x05\x06" + b"\xff" * 18)
def test_arbitrary_bytes_are_refused_in_one_line(path, content):
    refusal = read_content(path, content)
    assert isinstance(refusal, ShardError)
    assert str(refusal).startswith(f"{path}: expected ")
    assert "\n" not in str(refusal)


@examples(8)
@given(st.data())
def test_a_damaged_file_is_refused_or_gives_what_was_written(path, sound, data):
    content = data.draw(damaged(sound))
    tracemalloc.start()
    found = read_content(path, content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 21
    if not isinstance(found, ShardError):  # not every byte of an archive means something
        assert_equal(found, ARRAYS)
