import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.npz import read_arrays, write_arrays
from megadga.errors import ConfigError
from megadga.mixers.basis import SPECS, Basis, read_basis, write_basis
from tests.support.damage import damaged
from tests.support.examples import examples

CLUSTERING = "0123456789abcdef" * 4
BASIS = Basis.from_rows(
    [np.array([0.25, 0.0, 0.75]), np.array([0.0, 1.0, 0.0])],
    names=("frage", "größe"),
    domains=("c0", "c1", "c2"),
    clustering=CLUSTERING,
)


def change(**changes) -> Basis:
    return dataclasses.replace(BASIS, **changes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def assert_equal(found: Basis, expected: Basis) -> None:
    for field in dataclasses.fields(Basis):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, np.ndarray):
            assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
        else:
            assert one == other


def test_rows_are_kept_sparse():
    assert BASIS.indptr.tolist() == [0, 2, 3]
    assert BASIS.indices.tolist() == [0, 2, 1]
    assert BASIS.data.tolist() == [0.25, 0.75, 1.0]
    assert BASIS.row(0).tolist() == [0.25, 0.0, 0.75]
    assert BASIS.row(1).tolist() == [0.0, 1.0, 0.0]


@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=6, unique=True), st.integers(1, 400))
def test_what_is_written_reads_back_the_same(tmp_path_factory, seeds, num_domains):
    path = tmp_path_factory.getbasetemp() / "basis.npz"
    masses = [np.random.default_rng(seed).random(num_domains) for seed in seeds]
    basis = Basis.from_rows(
        [np.where(mass < 0.5, 0, mass) / mass[mass >= 0.5].sum() for mass in masses]
        if all((mass >= 0.5).any() for mass in masses)
        else [mass / mass.sum() for mass in masses],
        names=[f"set {seed}" for seed in seeds],
        domains=[f"c{number}" for number in range(num_domains)],
        clustering=CLUSTERING,
    )
    write_basis(path, basis)
    assert_equal(read_basis(path), basis)


def test_numpy_alone_reads_it(tmp_path):
    write_basis(tmp_path / "basis.npz", BASIS)
    with np.load(tmp_path / "basis.npz") as arrays:
        assert arrays["indptr"].tolist() == [0, 2, 3]
        assert arrays["names"].tobytes() == "frage\ngröße".encode()
        assert arrays["domains"].tobytes() == b"c0\nc1\nc2"
        assert arrays["num_domains"] == 3
        assert arrays["clustering"].tobytes() == CLUSTERING.encode()


def test_narrow_indices_are_read_too(tmp_path):
    path = tmp_path / "basis.npz"
    write_basis(path, BASIS)
    arrays = read_arrays(path, SPECS)
    write_arrays(path, {**arrays, "indices": arrays["indices"].astype("<i4")})
    assert_equal(read_basis(path), BASIS)


REFUSALS = [
    ({"names": ()}, "names: expected some names, all different, found 0"),
    ({"names": ("a", "a")}, "names: expected some names, all different, found 2"),
    ({"names": ("a", "")}, "names: expected printable names, found ''"),
    ({"names": ("a", "b\nc")}, r"names: expected printable names, found 'b\\nc'"),
    ({"domains": ("c0", "c1", "c1")}, "domains: expected some names, all different, found 3"),
    ({"clustering": "xyz"}, "clustering: expected 64 hexadecimal digits, found 'xyz'"),
    ({"names": ("a",)}, r"indptr: expected the shape \(2,\) for 1 names, found \(3,\)"),
    ({"indices": ints(0, 2)}, r"indices: expected the shape \(3,\) of data, found \(2,\)"),
    ({"indptr": ints(1, 2, 3)}, "indptr: expected to ascend from 0 to 3"),
    ({"indptr": ints(0, 2, 4)}, "indptr: expected to ascend from 0 to 3"),
    ({"indptr": ints(0, 3, 3)}, "indptr: expected to ascend from 0 to 3"),  # a row without mass
    ({"indices": ints(0, 3, 1)}, r"indices: frage: expected to ascend in \[0, 3\)"),
    ({"indices": ints(-1, 2, 1)}, r"indices: frage: expected to ascend in \[0, 3\)"),
    ({"indices": ints(2, 0, 1)}, r"indices: frage: expected to ascend in \[0, 3\)"),
    ({"indices": ints(2, 2, 1)}, r"indices: frage: expected to ascend in \[0, 3\)"),
    ({"data": np.array([0.0, 1.0, 1.0])}, r"data: frage: expected values in \(0, 1\]"),
    ({"data": np.array([-0.5, 1.5, 1.0])}, r"data: frage: expected values in \(0, 1\]"),
    ({"data": np.array([0.25, 0.75, np.nan])}, r"data: größe: expected values in \(0, 1\]"),
    ({"data": np.array([0.25, 0.75, 1 - 2e-12])}, "data: größe: expected a sum of 1, found 0.99"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS)
def test_what_is_no_basis_is_refused(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        change(**changes)


def test_a_sum_may_be_off_by_rounding():
    change(data=np.array([0.25, 0.75, 1 - 5e-13]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"num_domains": np.array(4)}, "num_domains: expected 3, as many as domains, found 4"),
        ({"names": np.frombuffer(b"a\n\xff", np.uint8)}, "names: expected UTF-8, found "),
        ({"names": np.frombuffer(b"a\nb\n", np.uint8)}, "names: expected printable names"),
        ({"indptr": ints(0, 1 << 60, 3)}, "indptr: expected to ascend"),
        ({"data": np.ones(3, np.float32)}, r"data\.npy: expected <f8 of 1 dimensions"),
    ],
)
def test_a_file_with_other_arrays_is_refused_by_its_name(tmp_path, arrays, message):
    path = tmp_path / "basis.npz"
    write_basis(path, BASIS)
    write_arrays(path, {**read_arrays(path, SPECS), **arrays})
    with pytest.raises(ConfigError, match=f"^{path}: {message}"):
        read_basis(path)


@examples(8)
@given(st.data())
def test_a_damaged_file_is_refused_or_gives_what_was_written(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    write_basis(path, BASIS)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    assert_refused_or_equal(path)


@examples(3)
@given(st.data())
def test_damaged_arrays_are_refused_or_are_a_basis(tmp_path_factory, data):
    """Behind sound checksums, where a stranger's file may be anything."""
    path = tmp_path_factory.getbasetemp() / "strange.npz"
    write_basis(path, BASIS)
    arrays = dict(read_arrays(path, SPECS))
    key = data.draw(st.sampled_from(sorted(arrays)))
    dtype = arrays[key].dtype
    content = data.draw(damaged(arrays[key].tobytes()))
    whole = content[: len(content) // dtype.itemsize * dtype.itemsize]
    arrays[key] = np.frombuffer(whole, dtype)
    write_arrays(path, arrays)
    try:
        found = read_basis(path)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        for index in range(len(found.names)):
            assert found.row(index).sum() == pytest.approx(1, abs=1e-12)


def assert_refused_or_equal(path: Path) -> None:
    try:
        found = read_basis(path)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:  # not every byte of an archive means something
        assert_equal(found, BASIS)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.npz: expected an \.npz, found No such file"):
        read_basis(tmp_path / "none.npz")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"basis\.npz: expected to write it, found "):
        write_basis(tmp_path / "none" / "basis.npz", BASIS)
