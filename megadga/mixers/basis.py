"""Distribution reweighting (arXiv 2410.02498, section 4): a scheduler over basis distributions.

The basis P has one row per basis distribution over the domains. It is kept in an ``.npz`` as
sparse rows; the domains' weights are ``w P``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from megadga.arrays import FloatArray, IntArray
from megadga.data.npz import ArraySpec, read_arrays, write_arrays
from megadga.errors import ConfigError
from megadga.mixers.base import (
    AlignmentNeeds,
    Mixtures,
    MixtureState,
    Observed,
    Scheduler,
    TargetNeeds,
    check_rows,
)
from megadga.mixers.by_hand import continue_from

SPECS = {
    "indptr": ArraySpec(("<i8",), 1),
    "indices": ArraySpec(("<i8", "<i4"), 1),
    "data": ArraySpec(("<f8",), 1),
    "names": ArraySpec(("|u1",), 1),
    "domains": ArraySpec(("|u1",), 1),
    "num_domains": ArraySpec(("<i8",), 0),
    "clustering": ArraySpec(("|u1",), 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """n distributions over K domains, P of shape ``(n, K)``, as compressed sparse rows.

    Attributes:
        indptr: Where each row's entries begin, and end, shape ``(n + 1,)``, ``n >= 1``.
        indices: The entries' columns, in [0, K), ascending in each row, shape ``(entries,)``.
        data: The entries' values, above 0, shape ``(entries,)``; each row sums to 1 within
            1e-12.
        names: The rows' names, ``n`` of them, all different.
        domains: The columns' names, ``K`` of them, all different.
        clustering: Fingerprint of the clustering at its level (``Classifier.fingerprint``),
            SHA-256, hexadecimal.

    Raises:
        ConfigError: If something is not as said.
    """

    indptr: IntArray
    indices: IntArray
    data: FloatArray
    names: tuple[str, ...]
    domains: tuple[str, ...]
    clustering: str

    def __post_init__(self) -> None:
        _check_names("names", self.names)
        _check_names("domains", self.domains)
        if not re.fullmatch("[0-9a-f]{64}", self.clustering):
            raise ConfigError(
                f"clustering: expected 64 hexadecimal digits, found {self.clustering[:80]!r}"
            )
        try:
            check_rows(self.names, len(self.domains), self.indptr, self.indices, self.data)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def from_rows(
        cls, rows: Sequence[FloatArray], *, names: Sequence[str], domains: Sequence[str],
        clustering: str,
    ) -> "Basis":  # fmt: skip
        """Return the basis of dense rows, each of shape ``(K,)``.

        Raises:
            ConfigError: If a row is no distribution, or names do not fit.
        """
        dense = np.array(rows, dtype=np.float64, ndmin=2)
        owners, indices = np.nonzero(dense)
        return cls(
            indptr=np.cumsum([0, *np.bincount(owners, minlength=len(dense))], dtype=np.int64),
            indices=indices,
            data=dense[owners, indices],
            names=tuple(names),
            domains=tuple(domains),
            clustering=clustering,
        )

    def row(self, index: int) -> FloatArray:
        """Return one distribution, dense, shape ``(K,)``."""
        entries = slice(self.indptr[index], self.indptr[index + 1])
        dense = np.zeros(len(self.domains))
        dense[self.indices[entries]] = self.data[entries]
        return dense


def write_basis(path: Path, basis: Basis) -> None:
    """Write a basis, whole or not at all; equal ones give equal bytes.

    Raises:
        ConfigError: If it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {
        "indptr": basis.indptr.astype("<i8"),
        "indices": basis.indices.astype("<i8"),
        "data": basis.data.astype("<f8"),
        "names": _encode("\n".join(basis.names)),
        "domains": _encode("\n".join(basis.domains)),
        "num_domains": np.array(len(basis.domains), dtype="<i8"),
        "clustering": _encode(basis.clustering),
    }
    try:
        write_arrays(path, arrays)
    except OSError as error:
        raise ConfigError(f"{path}: expected to write it, found {error}") from error


def read_basis(path: Path) -> Basis:
    """Return the basis in a file.

    Raises:
        ConfigError: If the file is missing or damaged, or its arrays are no basis.
    """
    arrays = read_arrays(path, SPECS, error=ConfigError)
    try:
        basis = Basis(
            indptr=arrays["indptr"],
            indices=arrays["indices"].astype(np.int64),
            data=arrays["data"],
            names=tuple(_decode("names", arrays["names"]).split("\n")),
            domains=tuple(_decode("domains", arrays["domains"]).split("\n")),
            clustering=_decode("clustering", arrays["clustering"]),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if arrays["num_domains"] != len(basis.domains):
        raise ConfigError(
            f"{path}: num_domains: expected {len(basis.domains)}, as many as domains, "
            f"found {arrays['num_domains']}"
        )
    return basis


def _check_names(key: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"{key}: expected some names, all different, found {len(names)}")
    for name in names:
        if not name.isprintable() or not name:
            raise ConfigError(f"{key}: expected printable names, found {name[:80]!r}")


def _encode(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _decode(key: str, content: NDArray[np.uint8]) -> str:
    try:
        return content.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: expected UTF-8, found {error}") from error


WEIGHTS = "basis_weights"


AVERAGED_WEIGHTS = "basis_averaged_weights"


_PREFIX = "rule_"


@final
@dataclass(frozen=True, eq=False)
class OverBasis:
    """A rule that weights basis distributions (arXiv 2410.02498, distribution reweighting).

    Where domains are too many to measure, the rule lives on ``n`` distributions ``P_j`` over them.
    It receives the alignments of sequences that are drawn from each ``P_j``, moves its ``n``
    weights ``w`` by those, and the domains get

        alpha = w P,    alpha_avg = w_avg P

    With the identity for P this is the rule itself, to the bit. The rule's own weights, and what
    it remembers, are in the state's memory.

    Attributes:
        rule: Moves the weights of the basis distributions, ``n`` of them.
        mixtures: P, of shape ``(n, K)``.

    Raises:
        ValueError: If the rule observes no alignments, or has another number of weights.
    """

    rule: Scheduler
    mixtures: Mixtures

    def __post_init__(self) -> None:
        self._needs()
        expected = (len(self.mixtures.names),)
        if (found := self.rule.init().weights.shape) != expected:
            raise ValueError(f"rule: expected weights of shape {expected}, found {found}")

    @property
    def observes(self) -> AlignmentNeeds | TargetNeeds:
        """What the rule needs, of mixtures of the domains."""
        return replace(self._needs(), mixtures=self.mixtures)

    def init(self) -> MixtureState:
        """Return the domains' weights by the rule's first ones."""
        return self._mixed(self.rule.init())

    def update(self, state: MixtureState, observed: Observed) -> MixtureState:
        """Return the state after one measurement of the basis distributions.

        Args:
            state: What `init` or the last update returned.
            observed: What the rule asked for, of ``n`` mixtures in the domains' place.

        Raises:
            ValueError: As the rule does.
        """
        return self._mixed(self.rule.update(rule_state(state), observed))

    def continue_from(self, state: MixtureState, weights: FloatArray) -> MixtureState:
        """Return a state from which the rule goes on at other weights of the basis distributions.

        Args:
            state: What `init` or the last update returned.
            weights: Over the basis distributions, shape ``(n,)``.
        """
        return self._mixed(continue_from(self.rule, rule_state(state), weights))

    def _needs(self) -> AlignmentNeeds | TargetNeeds:
        needs = self.rule.observes
        if isinstance(needs, AlignmentNeeds | TargetNeeds) and needs.mixtures is None:
            return needs
        raise ValueError(f"rule: expected one that observes alignments of domains, found {needs}")

    def _mixed(self, state: MixtureState) -> MixtureState:
        return replace(
            state,
            weights=self.mixtures.mix(state.weights),
            averaged_weights=self.mixtures.mix(state.averaged_weights),
            memory={
                WEIGHTS: state.weights,
                AVERAGED_WEIGHTS: state.averaged_weights,
                **{_PREFIX + name: array for name, array in state.memory.items()},
            },
        )


def basis_weights(memory: Mapping[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the rule's weights and their average from a state's memory, both ``(n,)``."""
    return memory[WEIGHTS], memory[AVERAGED_WEIGHTS]


def rule_state(state: MixtureState) -> MixtureState:
    """Return the state of the rule inside `OverBasis`, over the basis distributions."""
    weights, averaged = basis_weights(state.memory)
    return replace(
        state,
        weights=weights,
        averaged_weights=averaged,
        memory={
            name.removeprefix(_PREFIX): array
            for name, array in state.memory.items()
            if name.startswith(_PREFIX)
        },
    )
