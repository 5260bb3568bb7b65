"""Whether a stream leads to a terminal that a bar can be drawn on."""

import os
from typing import TextIO


def draws_bars(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with columns: that of a container may have none."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # none of the system's: whoever made it knows its width
        return True
