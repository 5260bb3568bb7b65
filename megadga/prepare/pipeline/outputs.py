"""Where finished shards go: a folder a domain, or one folder that all domains share.

Knows folders, manifests and what was built into them; not how shards are made.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.prepare.pipeline.merging import ShardTask, Sizes
from megadga.prepare.pipeline.recipe import SPLITS
from megadga.prepare.pipeline.workplace import Workplace
from megadga.shards.files import written_whole
from megadga.shards.grouping import Bounds, Grouping, write_grouping
from megadga.shards.manifest import (
    Manifest,
    ShardEntry,
    TokenizerIdentity,
    read_manifest,
    write_manifest,
)

BUILD_FILE = "build.json"


@dataclass(frozen=True, slots=True)
class Output:
    """Where a build puts its domains.

    Attributes:
        path: The folder that gets one folder a domain; or, grouped, that all domains share.
        grouped: Whether they share it.
    """

    path: Path
    grouped: bool = False

    @property
    def workplace(self) -> Workplace:
        """The hidden folder beside it that a build works in."""
        path = self.path.absolute()
        return Workplace(path.with_name(f".{path.name}.building"))

    def rejects_path(self, digest: str) -> Path:
        """Return where the bad records of a build are listed, beside the output."""
        path = self.path.absolute()
        return path.with_name(f"{path.name}.rejects-{digest[:8]}.jsonl")

    def folders(self, names: Sequence[str]) -> dict[str, range]:
        """Return the name of each folder with shards, and the numbers of the domains in it."""
        if self.grouped:
            return {self.path.absolute().name: range(len(names))}
        return {name: range(number, number + 1) for number, name in enumerate(names)}

    def final_path(self, folder: str) -> Path:
        """Return where a folder with shards ends up."""
        return self.path if self.grouped else self.path / folder

    def finished(self, folder: str, digest: str) -> Manifest | None:
        """Return what a build has put in its place already; None: nothing yet.

        Raises:
            ShardError: If something else is there.
        """
        path = self.final_path(folder)
        if not path.exists():
            return None
        try:
            found = json.loads((path / BUILD_FILE).read_bytes())["build"]
        except (OSError, ValueError, TypeError, KeyError):
            found = None
        if found != digest:
            raise ShardError(f"{path}: expected no domain of this name yet, found one")
        return read_manifest(path)


@dataclass(frozen=True)
class Finishing:
    """Puts folders with finished shards in their place; the same for all of a build.

    Attributes:
        output: Where.
        tokenizer: What wrote the tokens.
        names: The domains' names, ``K`` of them.
        sizes: How much there is of each.
        classifier: Fingerprint of what sorted documents into them; None: nothing did.
        build: What is written down of the build, JSON-shaped.
    """

    output: Output
    tokenizer: TokenizerIdentity
    names: Sequence[str]
    sizes: Sizes
    classifier: str | None
    build: Mapping[str, Any]

    def __call__(self, folder: str, shards: Sequence[ShardTask]) -> Manifest:
        """Complete one folder with its manifest and give it its final name.

        Args:
            folder: Its name.
            shards: What is in it, all of it written.
        """
        workplace = self.output.workplace
        merged = workplace.merged_folder(folder)
        merged.mkdir(exist_ok=True)
        entries: dict[str, tuple[ShardEntry, ...]] = {
            split: tuple(_entries(workplace, [one for one in shards if one.split == split]))
            for split in SPLITS
        }
        grouping = write_grouping(merged, self._grouping()) if self.output.grouped else None
        manifest = Manifest(folder, self.tokenizer, entries, grouping)
        with written_whole(merged / BUILD_FILE) as file:
            file.write(json.dumps(self.build, indent=2).encode() + b"\n")
        write_manifest(merged, manifest)
        path = self.output.final_path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        merged.rename(path)
        return manifest

    def _grouping(self) -> Grouping:
        bounds = {
            split: Bounds(
                tokens=_cumulative(self.sizes.tokens[number]),
                documents=_cumulative(self.sizes.documents[number]),
            )
            for number, split in enumerate(SPLITS)
        }
        return Grouping(tuple(self.names), bounds, self.classifier)


def _entries(workplace: Workplace, shards: Sequence[ShardTask]) -> Iterator[ShardEntry]:
    for shard in shards:
        entry = workplace.shard_entry(shard.folder, shard.name)
        assert entry is not None, f"{shard.folder}/{shard.name} is written before its folder ends"
        yield entry


def _cumulative(sizes: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes)))
