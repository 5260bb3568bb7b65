"""Compressed files: frames one after the other, and damage that is noticed."""

import contextlib
import gzip
import io
import sys

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.reading.formats import GZIP_READ_BYTES, DamageError, open_gzip, open_zstd

FORMATS = pytest.mark.parametrize(
    ("compress", "expand"), [(gzip.compress, open_gzip), (zstandard.compress, open_zstd)]
)


@FORMATS
@given(frames=st.lists(st.binary(), min_size=1))
def test_a_file_expands_to_what_its_frames_hold(compress, expand, frames):
    file = io.BytesIO(b"".join(map(compress, frames)))
    assert expand(file).read() == b"".join(frames)


@FORMATS
def test_more_than_a_buffer_is_read_line_by_line(compress, expand):
    lines = [b"x" * length + b"\n" for length in range(0, 600_000, 60_000)]
    assert list(expand(io.BytesIO(compress(b"".join(lines))))) == lines


def test_frames_without_content_are_passed_over_as_zstd_wants_them():
    skippable = b"\x50\x2a\x4d\x18" + b"\x03\x00\x00\x00" + b"abc"
    frame = zstandard.compress(b"text")
    assert open_zstd(io.BytesIO(skippable + frame + skippable + frame)).read() == b"texttext"


def test_a_window_larger_than_zstandard_allows_by_itself_is_read():
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(b"text") + compressor.flush()
    assert open_zstd(io.BytesIO(frame)).read() == b"text"


@FORMATS
def test_a_file_that_breaks_off_anywhere_is_damaged(compress, expand):
    whole = compress(b"some text")
    for length in range(len(whole)):
        with pytest.raises(DamageError, match=r"expected whole \w+, found that it breaks off"):
            expand(io.BytesIO(whole[:length])).read()


@pytest.mark.parametrize(
    ("compress", "expand", "extra"),
    [
        (gzip.compress, open_gzip, b"extra bytes"),
        (gzip.compress, open_gzip, b"\0\0extra bytes"),
        (zstandard.compress, open_zstd, b"extra bytes"),
        (zstandard.compress, open_zstd, b"\0"),
    ],
)
def test_a_file_with_something_behind_it_is_damaged(compress, expand, extra):
    with pytest.raises(DamageError, match="expected whole "):
        expand(io.BytesIO(compress(b"some text") + extra)).read()


@given(frames=st.lists(st.binary(), min_size=1), paddings=st.lists(st.integers(0, 3), min_size=1))
@pytest.mark.parametrize("unit", [1, 512, GZIP_READ_BYTES])
def test_zeros_behind_a_frame_of_gzip_are_padding_as_gzip_has_it(frames, paddings, unit):
    content = b"".join(
        gzip.compress(frame) + bytes(unit * paddings[number % len(paddings)])
        for number, frame in enumerate(frames)
    )
    expected = gzip.decompress(content)
    assert open_gzip(io.BytesIO(content)).read() == expected == b"".join(frames)


@FORMATS
@given(content=st.binary())
def test_any_bytes_expand_or_are_damaged(compress, expand, content):
    for data in (content, compress(b"text")[:8] + content):
        with contextlib.suppress(DamageError):
            expand(io.BytesIO(data)).read()


def test_without_zstandard_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b"{}"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with (
        path.open("rb") as file,
        pytest.raises(
            ConfigError, match=rf'^{path}: expected the package .* install "megadga\[data\]"$'
        ),
    ):
        open_zstd(file)
