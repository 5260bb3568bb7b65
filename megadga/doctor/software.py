"""Which software this interpreter would train with. Imports none of it."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import megadga
from megadga.doctor.reports import Software

_PACKAGES = ("torch", "deepspeed", "numpy")
_NOT_INSTALLED = "not installed"


def own_software() -> Software:
    """Return the versions and the code that this process finds."""
    versions = {name: _version(name) for name in _PACKAGES}
    code = hash_code(Path(megadga.__file__).parent)
    return Software({"Python": platform.python_version(), **versions}, code)


def hash_code(folder: Path) -> str:
    """Return a hash of the names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _NOT_INSTALLED
