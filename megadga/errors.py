"""Errors caused by the user's input, files or machine.

Each message is one line (``ConfigError`` may have one line per issue): subject, expected, found.
The command line prints it and exits with code 2.
"""

MAX_CHARACTERS = 1000
"""Limit per line, as quoted values may have any length."""


class MegadgaError(Exception):
    """Base class of user errors.

    Args:
        message: The message. Unprintable characters are escaped, and lines of more than
            ``MAX_CHARACTERS`` are truncated in the middle.
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
    """A configuration, an option or an input file is invalid."""


class ShardError(MegadgaError):
    """A shard, a manifest or a domain's folder is missing, damaged or inconsistent."""


class ExhaustedError(MegadgaError):
    """All domains with positive weight have reached ``max_epochs``."""


class ResumeError(MegadgaError):
    """A checkpoint is damaged or belongs to another run."""


class UnsupportedEngineError(MegadgaError):
    """Alignments are not known to be exact with this DeepSpeed engine or module."""


class LockedError(MegadgaError):
    """Another process is training in the run's folder."""


class TrainingError(MegadgaError):
    """Training must not go on as it does.

    Raised on every rank after the same step.
    """


class DivergedError(TrainingError):
    """Losses or gradients are not finite."""


class LossSpikeError(TrainingError):
    """A loss stands out from those before it, and the run is to stop, or has gone back enough."""


class RanksDifferError(TrainingError):
    """Ranks have other steps, batches, weights or parameters than rank 0."""
