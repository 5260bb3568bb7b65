"""Under which names a run is known to services, so that a resumed process goes on with it."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from megadga.data.files import atomic_write, parse_strictly
from megadga.errors import ResumeError

MONITORS_FILE = "monitors.json"
"""Name of the file in a run's output folder."""


@dataclass(frozen=True)
class _Known:
    """A run in a service.

    Attributes:
        id: 32 hexadecimal digits.
        until: The last step that was sent; the run may have gone back since.
    """

    id: str
    until: int


@final
class ServiceIdentity:
    """A run's name in a service that keeps what it has been sent: numbers are sent once.

    A step that is trained again, after a crash or a return to a checkpoint, is not sent again: the
    service would have it twice, or refuse it.

    Args:
        output: The run's folder.
        service: For example ``wandb``.
        step: Optimizer steps completed when the process starts; 0: another run begins.
        abandoned: The last step that was trained before and is trained again, at least 0.

    Raises:
        ResumeError: If the file is damaged.
    """

    def __init__(self, output: Path, service: str, *, step: int, abandoned: int) -> None:
        self._path = output / MONITORS_FILE
        self._service = service
        known = self._read().get(service) if step > 0 else None
        self._known = known or _Known(secrets.token_hex(16), 0)
        self._last = step
        self.raise_until(abandoned if known is not None else 0)

    @property
    def id(self) -> str:
        """The run's name."""
        return self._known.id

    def is_new(self, step: int) -> bool:
        """Tell whether a step has not been sent, and note that it is now."""
        self._last = max(self._last, step)
        return step > self._known.until

    def go_back(self) -> None:
        """Note that steps up to the last one are trained again."""
        self.raise_until(self._last)

    def raise_until(self, step: int) -> None:
        """Note which steps have been sent, and write the file.

        Raises:
            OSError: If it cannot be written.
        """
        self._known = _Known(self._known.id, max(self._known.until, step))
        content = {**self._read(), self._service: self._known}
        with atomic_write(self._path) as file:
            text = json.dumps({name: asdict(each) for name, each in content.items()}, indent=2)
            file.write(f"{text}\n".encode())

    def _read(self) -> dict[str, _Known]:
        try:
            content: Any = parse_strictly(self._path.read_bytes())
            return {name: _Known(**each) for name, each in content.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            found = " ".join(str(error).split())
            raise ResumeError(
                f"{self._path}: expected the run's names in services, found {found}; "
                "without the file they get new ones"
            ) from None
