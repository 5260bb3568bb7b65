"""Where finished shards go: a folder a domain, or one folder that all domains share.

Knows folders, manifests and what was built into them; not how shards are made.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from megadga.arrays import IntArray
from megadga.errors import ShardError
from megadga.prepare.pipeline.merging import ShardTask, Sizes
from megadga.prepare.pipeline.recipe import SPLITS
from megadga.prepare.pipeline.workplace import Workplace
from megadga.prepare.reading.products import rejects_path
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
class Provenance:
    """What a build is of, by which its finished folders are known again.

    Attributes:
        digest: SHA-256 of everything that decides it, with names and sizes of its files,
            hexadecimal.
        modified: When each file was modified, in nanoseconds, by its absolute path.
    """

    digest: str
    modified: Mapping[str, int]

    def describe(self) -> dict[str, Any]:
        """Return it JSON-shaped, of bounded size however many files there are."""
        times = json.dumps(sorted(self.modified.items())).encode()
        return {
            "version": 2,
            "build": self.digest,
            "modified": hashlib.sha256(times).hexdigest(),
            "newest": max(self.modified.values(), default=0),
        }

    def check(self, note: Mapping[str, Any], folder: Path) -> None:
        """Check that the files are still what a folder was built from.

        Args:
            note: What ``describe`` said then.
            folder: What was built.

        Raises:
            ShardError: If one of them was modified since; names the first that is newer than all
                were, if there is one.
        """
        if note.get("modified") == self.describe()["modified"]:
            return
        newest = note.get("newest")
        newer = [
            path
            for path, time in self.modified.items()
            if isinstance(newest, int) and time > newest
        ]
        raise ShardError(
            f"{newer[0] if newer else folder}: expected the input as it was when {folder} was "
            "built from it, found other times of modification: remove that folder to build it "
            "again"
        )


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
        return rejects_path(self.path.absolute(), digest)

    def folders(self, names: Sequence[str]) -> dict[str, range]:
        """Return the name of each folder with shards, and the numbers of the domains in it."""
        if self.grouped:
            return {self.path.absolute().name: range(len(names))}
        return {name: range(number, number + 1) for number, name in enumerate(names)}

    def final_path(self, folder: str) -> Path:
        """Return where a folder with shards ends up."""
        return self.path if self.grouped else self.path / folder

    def finished(self, folder: str, made: Provenance) -> Manifest | None:
        """Return what a build has put in its place already; None: nothing yet.

        Raises:
            ShardError: If something else is there, or the same from files that were modified
                since.
        """
        path = self.final_path(folder)
        if not path.exists():
            return None
        note = _read_note(path)
        if note.get("build") != made.digest:
            raise ShardError(f"{path}: expected no domain of this name yet, found one")
        made.check(note, path)
        return read_manifest(path)

    def check_left(self, made: Provenance) -> None:
        """Check what was built here before, where the records are still to say what domains are.

        Raises:
            ShardError: If something of the same build is there, from files that were modified
                since; grouped, if something else is there.
        """
        if self.grouped:
            self.finished(self.path.absolute().name, made)
            return
        for note_path in sorted(self.path.glob(f"*/{BUILD_FILE}")):
            note = _read_note(note_path.parent)
            if note.get("build") == made.digest:
                made.check(note, note_path.parent)


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


def _read_note(folder: Path) -> dict[str, Any]:
    """Return what a build noted in a folder; empty: nothing that can be read."""
    try:
        note: object = json.loads((folder / BUILD_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", note) if isinstance(note, dict) else {}


def _entries(workplace: Workplace, shards: Sequence[ShardTask]) -> Iterator[ShardEntry]:
    for shard in shards:
        entry = workplace.shard_entry(shard.folder, shard.name)
        assert entry is not None, f"{shard.folder}/{shard.name} is written before its folder ends"
        yield entry


def _cumulative(sizes: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes)))
