"""The on-disk state of a scoring, from which an interrupted one goes on."""

import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megadga.data.files import atomic_write, exclusive
from megadga.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ScoringFolder:
    """The hidden folder with what has been measured, one file a pass and task.

    Attributes:
        path: Its path.
    """

    path: Path

    @contextmanager
    def claim(self, plan: Mapping[str, Any]) -> Generator[None]:
        """Create or reopen the folder, with exclusive access.

        Args:
            plan: JSON-serializable description of the scoring, flat.

        Raises:
            ConfigError: If another process is using it, or it belongs to a different scoring;
                names the difference.
        """
        with exclusive(self.path, "scoring"):
            self._continue(plan)
            yield

    def _continue(self, plan: Mapping[str, Any]) -> None:
        path = self.path / "plan.json"
        try:
            before: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            before = {}
        if not before:
            with atomic_write(path) as file:
                file.write(json.dumps(dict(plan)).encode())
            return
        for key in {**before, **plan}:
            if before.get(key) != plan.get(key):
                raise ConfigError(
                    f"{path}: {key}: expected {before.get(key)}, found {plan.get(key)}: a "
                    f"different scoring was interrupted here; finish that one, or remove "
                    f"{self.path}"
                )

    def save(self, number: int, task: int, found: NDArray[Any]) -> None:
        """Keep what a pass found of a task's documents."""
        with atomic_write(self._file(number, task), durable=False) as file:
            np.save(file, found, allow_pickle=False)

    def load(self, number: int, task: int, documents: int) -> NDArray[Any] | None:
        """Return what a pass found of a task's documents; None if that has to be done (again)."""
        try:
            found: NDArray[Any] = np.load(self._file(number, task), allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError, OSError):
            return None  # also of a file without its content, after a power failure
        return found if found.shape[:1] == (documents,) else None

    def all_of(self, number: int, sizes: list[int]) -> Iterator[NDArray[Any]]:
        """Yield what a pass found, task by task; of all tasks, each with its documents."""
        for task, documents in enumerate(sizes):
            found = self.load(number, task, documents)
            assert found is not None, "every task is done"
            yield found

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)

    def _file(self, number: int, task: int) -> Path:
        return self.path / f"pass-{number}-{task:06d}.npy"
