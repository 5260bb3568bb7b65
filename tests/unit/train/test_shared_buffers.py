"""Segments of shared memory that DeepSpeed leaves behind where ranks are killed."""

import mmap
import os

from megadga.train.ranks import remove_abandoned_buffers


def write(folder, name, *, user=None, age_s=3600.0):
    user = os.getuid() if user is None else user
    path = folder / f"deepspeed_allreduce_buffer_{user}_127.0.0.1_{name}"
    path.write_bytes(bytes(mmap.PAGESIZE))
    changed = path.stat().st_mtime - age_s
    os.utime(path, (changed, changed))
    return path


def test_segments_that_nobody_has_mapped_are_removed_and_no_others(tmp_path):
    left = write(tmp_path, "4711_0")
    kept = {
        write(tmp_path, "4712_0", age_s=0.0),
        write(tmp_path, "4711_1", user=os.getuid() + 1),
        tmp_path / "another",
        (used := write(tmp_path, "4713_0")),
    }
    (tmp_path / "another").touch()

    with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        remove_abandoned_buffers(tmp_path)

    assert not left.exists()
    assert set(tmp_path.iterdir()) == kept
    remove_abandoned_buffers(tmp_path)
    assert not used.exists()
