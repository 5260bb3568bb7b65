"""Tells what these tools have written from documents. Knows names, and reads no file.

Outputs may lie where inputs are looked for, and the same command is run again to go on: what it
wrote the first time must not be read the second time.
"""

import re
from pathlib import Path

_REJECTS = re.compile(r".+\.rejects-[0-9a-f]{8}\.jsonl", re.DOTALL)
_FOLDERS = {
    "the shards of a domain": ("manifest.json", "*.idx"),
    "a clustering": ("clusters.json", "centroids.npz"),
}


def rejects_path(output: Path, digest: str) -> Path:
    """Return where the bad records of a build are listed, beside its output.

    Args:
        output: The build's, absolute.
        digest: Of the build, hexadecimal, of 8 digits at least.
    """
    return output.with_name(f"{output.name}.rejects-{digest[:8]}.jsonl")


def is_rejects_list(name: str) -> bool:
    """Return whether a file of this name is one that ``rejects_path`` gives."""
    return _REJECTS.fullmatch(name) is not None


def describe_product(path: Path) -> str | None:
    """Return what of these tools' making a file or folder is; None: nothing, as far as is seen.

    A folder that holds nothing but such folders is one, too: the output of a build is.

    Raises:
        OSError: If a folder cannot be read.
    """
    if not path.is_dir():
        return "a list of rejected records" if is_rejects_list(path.name) else None
    if (kind := describe_folder(path)) is not None:
        return kind
    inner = [one for one in path.iterdir() if not one.name.startswith(".")]
    if inner and all(one.is_dir() and describe_folder(one) for one in inner):
        return "shards"
    return None


def is_product(path: Path) -> bool:
    """Return whether these tools have made a file or folder, or the folder that a file lies in.

    Raises:
        OSError: If a folder cannot be read.
    """
    return describe_product(path) is not None or describe_folder(path.parent) is not None


def describe_folder(folder: Path) -> str | None:
    """Return what these tools have put into a folder; None: nothing, as far as is seen there.

    Raises:
        OSError: If it cannot be read.
    """
    for kind, names in _FOLDERS.items():
        if all(next(folder.glob(name), None) is not None for name in names):
            return kind
    return None
