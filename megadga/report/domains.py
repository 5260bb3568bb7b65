"""What the domains of a run are: their names, labels and groups, and sums over groups.

A run writes them to ``domains.json`` in its folder when it starts, goes on, or is revised, so that
everything that shows the run needs neither its shards nor its configuration.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast, final

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from megadga.arrays import FloatArray, IntArray
from megadga.config.sections import OTHER_GROUP
from megadga.data.files import atomic_write, parse_strictly
from megadga.data.records import parse_record
from megadga.errors import ConfigError
from megadga.report.records import Record, names_at, read_metrics
from megadga.run_folder import METRICS_FILE

FILE = "domains.json"
VERSION = 1


@final
@dataclass(frozen=True)
class DomainInfo:
    """The domains that a run has or had.

    Attributes:
        names: In the order of the weights; those that a revision brought in follow, those that
            left stay.
        labels: A few words on what is in a domain, or in a group, by name, as ``"cell, protein"``;
            may lack any.
        groups: Names of the domains of each group; a domain is in one at most, and may be in none.
        examples: Beginnings of some documents of a domain, by its name; may lack any.
        basis: Names of the basis distributions, which the rule moves in the domains' place: of
            these are alignments, ``basis_weights`` and ``basis_averaged_weights``; empty without.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    basis: tuple[str, ...] = ()

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of what the rule moves: the domains, or the basis distributions."""
        return self.basis or self.names

    def text(self, name: str) -> str:
        """Return the name of a domain or a group with its label: ``c17 (cell, protein)``."""
        label = self.labels.get(name)
        return f"{name} ({label})" if label else name

    def group(self, names: Sequence[str], *, other: str | None = OTHER_GROUP) -> "Groups":
        """Return how values of some domains are divided into groups.

        Args:
            names: Of the columns of values, ``K`` of them; of basis distributions, too, which are
                in no group.
            other: Name of the group of all that are in none; None: each is shown as itself.
        """
        owners = {name: group for group, members in self.groups.items() for name in members}
        shown = [owners.get(name, name if other is None else other) for name in names]
        order = dict.fromkeys(group for group in self.groups if group in set(shown))
        order |= dict.fromkeys(name for name in shown if name != other)
        order |= dict.fromkeys(shown)  # what is in no group is last
        places = {name: place for place, name in enumerate(order)}
        return Groups(tuple(order), np.array([places[name] for name in shown], dtype=np.int64))

    def followed_by(self, later: "DomainInfo") -> "DomainInfo":
        """Return the domains of a run that goes on with others.

        Labels and examples of domains that left stay, and so does their group, if there still is
        one of this name.

        Args:
            later: The domains from now on.
        """
        names = tuple(dict.fromkeys((*self.names, *later.names)))
        placed = {name for members in later.groups.values() for name in members}
        left = set(self.names).difference(later.names, placed)
        groups = {
            group: (*members, *(name for name in self.groups.get(group, ()) if name in left))
            for group, members in later.groups.items()
        }
        labels = {**self.labels, **later.labels}
        examples = {**self.examples, **later.examples}
        return DomainInfo(names, labels, groups, examples, later.basis)


@final
@dataclass(frozen=True, eq=False)
class Groups:
    """A division of ``K`` columns of values into ``G`` groups, none of them empty.

    Values have the shape ``(..., K)``, results ``(..., G)``. A domain that was not there has the
    value NaN, and is left out; a group of which no domain was there has NaN.

    Attributes:
        names: Of the groups, ``G`` of them.
        members: The group of each column, in ``[0, G)``, shape ``(K,)``.
    """

    names: tuple[str, ...]
    members: IntArray

    def sum(self, values: FloatArray) -> FloatArray:
        """Return the groups' sums: of weights, sequences, tokens."""
        there = ~np.isnan(values)
        sums = self._add(np.where(there, values, 0.0))
        sums[self._add(there.astype(np.float64)) == 0.0] = np.nan
        return sums

    def mean(self, values: FloatArray, shares: FloatArray) -> FloatArray:
        """Return the groups' means, weighted by shares; NaN where all shares are 0.

        Of alignments, with the weights (α) as shares: gradients are linear in the data, so this is
        the alignment of the mixture of the group's domains, and by how much an update
        ``α exp(η a)`` moves the group's weight, to first order in η. Of validation losses, with
        equal shares: means as the general loss is one, which is that of the groups' means by the
        number of their domains. Of training losses, with the numbers of targets, or the averaged
        weights: the loss of what was drawn from the group.

        Args:
            values: Shape ``(..., K)``.
            shares: At least 0, shape ``(K,)`` or that of the values.
        """
        used = self._used(values, shares)
        return _divided(self._add(np.where(used > 0.0, used * values, 0.0)), self._add(used))

    def standard_errors(self, errors: FloatArray, shares: FloatArray) -> FloatArray:
        """Return the standard errors of `mean`, of values measured independently.

        ``sqrt(sum (share e)^2) / sum share``: sequences of a probe are drawn for each domain by
        itself. The sequences of the specific set are shared, and their part of the error is in
        none of these.

        Args:
            errors: Standard errors by domain, shape ``(..., K)``.
            shares: As for `mean`.
        """
        used = self._used(errors, shares)
        squares = self._add(np.where(used > 0.0, used * errors, 0.0) ** 2)
        return _divided(np.sqrt(squares), self._add(used))

    def _used(self, values: FloatArray, shares: FloatArray) -> FloatArray:
        """Return the shares of the values that are there, and 0 for the others."""
        shares = np.broadcast_to(shares, values.shape)
        return np.where(np.isnan(values) | np.isnan(shares), 0.0, shares)

    def _add(self, values: FloatArray) -> FloatArray:
        order = np.argsort(self.members, kind="stable")
        starts = np.searchsorted(self.members[order], np.arange(len(self.names)))
        sums: FloatArray = np.add.reduceat(values[..., order], starts, axis=-1)
        return sums


def _divided(sums: FloatArray, shares: FloatArray) -> FloatArray:
    return np.divide(sums, shares, out=np.full_like(sums, np.nan), where=shares > 0.0)


def write_domain_info(folder: Path, info: DomainInfo) -> None:
    """Write what the domains of a run are into its folder, atomically.

    Raises:
        OSError: If it cannot be written.
    """
    content = {"version": VERSION, **asdict(info)}
    with atomic_write(folder / FILE) as file:
        file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")


_INFO = TypeAdapter(DomainInfo)


def read_domain_info(folder: Path) -> DomainInfo:
    """Return what the domains of a run are.

    Of a run by an earlier version these are the names in its metrics, without labels and groups.

    Args:
        folder: The run's.

    Raises:
        ConfigError: If there is neither, or the file is damaged.
    """
    path = folder / FILE
    try:
        content: object = parse_strictly(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _logged(folder / METRICS_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the domains of a run, found {error}") from None
    read = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if (version := read.pop("version", None)) != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, found {version!r}")
    try:
        return parse_record(_INFO, read, place=str(path))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _logged(metrics: Path) -> DomainInfo:
    """Return the names that a run's metrics have weights of.

    With a basis and too many domains to log, there are only those of the basis.
    """
    run = read_metrics(metrics)
    records = [*run.of("event"), *run.of("update")]
    names = _names_of(metrics, records, "averaged_weights")
    basis = _names_of(metrics, records, "basis_averaged_weights")
    if not names and not basis:
        raise ConfigError(f"{metrics}: expected weights by name, found none")
    return DomainInfo(names, basis=basis)


def _names_of(metrics: Path, records: Sequence[Record], key: str) -> tuple[str, ...]:
    named = (names_at(metrics, record, key) for record in records if key in record)
    return tuple(dict.fromkeys(chain.from_iterable(named)))
