"""Where the values of a configuration were written, and how a mistake is told. Knows no key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from megadga.errors import ConfigError

KeyPath = tuple[str | int, ...]


def dotted(path: KeyPath) -> str:
    """Return the path as it is written in messages and overrides: ``mixing.step_size``."""
    return ".".join(map(str, path))


def shown(value: Any) -> str:
    """Return a value as a message shows it: as YAML would have it, cut where it gets long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and value of everything that is not a mapping with keys of its own."""
    if isinstance(value, Mapping) and value:
        for key, inner in cast("Mapping[str, Any]", value).items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong.

    Args:
        path: The key, from the root.
        expected: What belongs there.
        found: What is there.
        hint: What the author may have meant; empty: no idea.
    """

    path: KeyPath
    expected: str
    found: str
    hint: str = ""


@dataclass(frozen=True)
class Places:
    """File and line (or override) of every key.

    Two configurations that say the same are equal wherever they say it: places do not compare.

    Args:
        by_path: Place of each key, as ``{("mixing", "ema"): "run.yaml:12"}``; the root's is where
            a missing key is missed. Empty for values that no file holds.
    """

    by_path: Mapping[KeyPath, str] = field(default_factory=dict[KeyPath, str], compare=False)

    def of(self, path: KeyPath) -> str:
        """Return the place of a key, or of the closest section around it; empty: unknown."""
        return self.by_path.get(self._closest(path), "")

    def has(self, path: KeyPath) -> bool:
        """Return whether a key was written."""
        return path in self.by_path

    def _closest(self, path: KeyPath) -> KeyPath:
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((section for section in around if section in self.by_path), ())

    def tell(self, mistake: Mistake) -> str:
        """Return the mistake as one line: place, key, what was expected and what was found."""
        parts = (self.of(mistake.path), dotted(mistake.path))
        line = ": ".join(part for part in parts if part)
        line = f"{line}: expected {mistake.expected}, found {mistake.found}"
        return f"{line}; did you mean {mistake.hint}?" if mistake.hint else line

    def error(self, mistakes: Sequence[Mistake]) -> ConfigError:
        """Return one error with a line for each mistake, in the order of the text."""
        order = {path: index for index, path in enumerate(self.by_path)}

        def written(mistake: Mistake) -> int:
            return order.get(self._closest(mistake.path), 0)

        return ConfigError("\n".join(map(self.tell, sorted(mistakes, key=written))))
