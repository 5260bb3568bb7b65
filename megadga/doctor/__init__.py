"""Whether hosts are fit for a run: each is asked about itself, then all ranks are tried together.

Nothing here trains, and nothing is left on a host.
"""

from megadga.doctor.diagnosis import preflight

__all__ = ["preflight"]
