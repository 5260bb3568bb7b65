"""Lazy import of optional packages."""

import importlib
from typing import Any

from megadga.errors import ConfigError


def import_extra(module: str, *, extra: str) -> Any:
    """Import an optional or slow module where it is used.

    Args:
        module: Its full name.
        extra: The extra of ``pip install 'megadga[EXTRA]'`` that installs it.

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
