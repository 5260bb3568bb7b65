"""Errors that a user's input, files or machine can cause.

Each message is one line (``ConfigError`` may hold one line per mistake) and names the thing, what
was expected and what was found. The command line prints it and exits with code 2.
"""

MAX_CHARACTERS = 1000
"""Of a line: what is quoted in it may have any length."""


class MegadgaError(Exception):
    """Base of every error that is the user's to mend.

    Args:
        message: What is wrong. What a terminal cannot show, or would obey, is escaped; lines of
            more than ``MAX_CHARACTERS`` lose their middle.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(_readable, message.split("\n"))))


def _readable(line: str) -> str:
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= MAX_CHARACTERS:
        return line
    half = MAX_CHARACTERS // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


class ConfigError(MegadgaError):
    """A configuration, an option or an input file does not say what it must."""


class ShardError(MegadgaError):
    """A shard, a manifest or a domain's folder is missing, damaged or contradicts another."""


class ExhaustedError(MegadgaError):
    """Every domain that may be drawn has reached its cap on repetitions."""


class ResumeError(MegadgaError):
    """A checkpoint does not belong to this run, or is not whole."""


class UnsupportedEngineError(MegadgaError):
    """Alignments are not known to be exact by a setting of the DeepSpeed engine, or its module."""


class LockedError(MegadgaError):
    """Another process trains in the run's folder."""


class DivergedError(MegadgaError):
    """Training has come to losses or gradients that are no finite numbers.

    Every rank raises it after the same step.
    """
