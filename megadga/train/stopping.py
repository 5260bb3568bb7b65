"""Whether the ranks stop before the run is over, decided together. Knows no signals."""

from collections.abc import Callable
from typing import final

import numpy as np

from megadga.alignment.protocols import Collective


@final
class AgreedStop:
    """Brings the ranks to one answer, as a signal reaches them at different steps, or only one.

    Args:
        requested: Whether this rank was asked to stop.
        collective: All ranks.
    """

    def __init__(self, requested: Callable[[], bool], collective: Collective) -> None:
        self._requested = requested
        self._collective = collective

    def agreed(self) -> bool:
        """Return whether any rank was asked to stop; the same on every rank. Collective."""
        return bool(self._collective.agreed_sum(np.array([float(self._requested())]))[0])
