"""Errors that a user's input, files or machine can cause. Knows nothing of who raises them.

Each message is one line (``ConfigError`` may hold one line a mistake) and names the thing, what
was expected and what was found. The command line prints it and exits with code 2.
"""


class MegadgaError(Exception):
    """Base of every error that is the user's to mend."""


class ConfigError(MegadgaError):
    """A configuration, an option or an input file does not say what it must."""


class ShardError(MegadgaError):
    """A shard, a manifest or a domain's folder is missing, damaged or contradicts another."""


class ExhaustedError(MegadgaError):
    """Every domain that may be drawn has reached its cap on repetitions."""


class ResumeError(MegadgaError):
    """A checkpoint does not belong to this run, or is not whole."""


class UnsupportedEngineError(MegadgaError):
    """The DeepSpeed engine uses a setting under which alignments are not known to be exact."""


class LockedError(MegadgaError):
    """Another process trains in the run's folder."""
