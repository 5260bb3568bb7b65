"""Packages that only some of preparation needs."""

import importlib
from typing import Any

from megadga.errors import ConfigError


def import_extra(module: str, *, extra: str) -> Any:
    """Return a module that is imported where it is used: it is slow to start, or may be absent.

    Args:
        module: Its full name.
        extra: What ``pip install 'megadga[EXTRA]'`` installs it.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{package}: expected it to be installed, found none: pip install 'megadga[{extra}]'"
        ) from error
