"""Lazy import of optional packages."""

import importlib
import os
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


def restrain_comet() -> None:
    """Keep comet_ml from acting by itself in this process, if something imports it later.

    On import it would replace functions of torch, and in every other process start to report its
    own errors over the network. transformers' Trainer imports it wherever it is installed. Of its
    variables, those that are set stay as they are.
    """
    os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
    os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")
