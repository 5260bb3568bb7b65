"""A tokenizer's file, read and identified. Knows no library that understands it."""

import hashlib
from pathlib import Path

from megadga.errors import ConfigError


def read_tokenizer_file(path: Path, *, fingerprint: str | None = None) -> tuple[bytes, str]:
    """Return what a tokenizer's file holds, and its fingerprint: SHA-256, hexadecimal.

    Args:
        path: The file.
        fingerprint: What it must be; None: anything.

    Raises:
        ConfigError: If the file cannot be read, or has another fingerprint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a tokenizer, found {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if fingerprint is not None and found != fingerprint:
        raise ConfigError(
            f"{path}: expected the fingerprint {fingerprint}, found {found}: the file has changed"
        )
    return content, found
