"""`megadga data convert`, run as its users run it."""

from pathlib import Path

import numpy as np
import pytest

from megadga.data.manifest import read_manifest
from tests.support.huggingface import train_byte_level
from tests.support.tools import assert_refused, run_data


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with a tokenizer, whose EOD is 0, and flat files."""
    work = tmp_path_factory.mktemp("work")
    train_byte_level(work / "tokenizer.json")
    for number in (1, 2, 10):
        np.array([number, 0, 5, 6, 0, 7], dtype="<u2").tofile(work / f"part-{number}.npy")
    return work


def convert(work: Path, *options: object, inputs: str = "part-*.npy"):
    return run_data(
        "convert", "--input", work / inputs, "--tokenizer", work / "tokenizer.json", *options
    )


def test_files_are_converted_in_the_natural_order_of_their_names(work):
    done = convert(work, "--dtype", "uint16", "--valid", "part-2*", "--output", work / "out")
    assert (done.returncode, done.stderr) == (0, "")
    _, train, valid, cut = done.stdout.splitlines()
    assert (train.split()[:4], valid.split()[:4]) == (
        ["out", "train", "6", "12"],
        ["out", "valid", "3", "6"],
    )
    assert cut == "documents that do not end in EOD: 3"
    stored = np.fromfile(work / "out" / "train-00000.bin", "<u2")
    assert stored[[0, 6]].tolist() == [1, 10]
    assert read_manifest(work / "out").tokenizer.eod == 0


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ((), "part-*.npy", "part-1.npy: expected a header of numpy, found none: name the type, "),
        (("--dtype", "uint16"), "no-*.npy", "no-*.npy: expected flat files of token ids, found"),
        (("--dtype", "uint16", "--valid", "*"), "part-*.npy", "valid: expected a file for train,"),
        (("--dtype", "uint16", "--valid", "x"), "part-*.npy", "valid: expected a file for valid,"),
        (("--dtype", "uint32"), "part-*.npy", "part-1.npy: token 1: expected an id in [0, 400), "),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(work, options, inputs, message):
    done = convert(work, *options, "--output", work / "refused", inputs=inputs)
    assert_refused(done, message)
    assert not (work / "refused").exists()


def test_help_teaches_with_an_example():
    done = run_data("convert", "--help")
    assert done.returncode == 0
    assert "megadga data convert " in done.stdout
