"""From the basis of a configuration to mixtures of the run's domains. Knows no torch."""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megadga.arrays import FloatArray
from megadga.build.naming import misnamed
from megadga.config.basis import Basis, read_basis
from megadga.config.mixing import DgaMixing, Weights
from megadga.config.models import RunConfig
from megadga.errors import ConfigError
from megadga.mixing.mixtures import Mixtures, row_sums
from megadga.mixing.static import uniform_weights
from megadga.shards.folder import OpenedSplit, ShardFolder
from megadga.shards.manifest import manifest_path


@dataclass(frozen=True, eq=False)
class RunBasis:
    """Basis distributions over the domains that a run has.

    Attributes:
        mixtures: Each over the domains in the order of the weights.
        lost_mass: Share of each in domains that are left out, in ``[0, 1)``, shape ``(n,)``: it
            went to the others in proportion.
        digest: Equal for equal content of the file.
    """

    mixtures: Mixtures
    lost_mass: FloatArray
    digest: str


def open_basis(
    config: RunConfig, folders: Sequence[ShardFolder], opened: OpenedSplit
) -> RunBasis | None:
    """Read the basis that a run's rule lives on; None if it lives on the domains.

    Args:
        config: The run.
        folders: Where its domains lie.
        opened: Its domains, and those that are left out.

    Raises:
        ConfigError: If the file is missing or damaged, is of another clustering or other domains
            than the shards, or a row lies in domains that are left out.
    """
    if not isinstance(config.mixing, DgaMixing) or (path := config.mixing.basis) is None:
        return None
    basis = read_basis(path)
    _check_clustering(path, basis, folders)
    names = [domain.name for domain in opened.domains]
    _check_domains(path, basis, names, opened.too_short.keys())
    mixtures, lost_mass = _over(path, basis, names)
    return RunBasis(mixtures, lost_mass, _digest(basis))


def weights_of_rows(config: RunConfig, key: str, rule: Weights, mixtures: Mixtures) -> FloatArray:
    """Return the weights that a rule under ``mixing.<key>`` gives, shape ``(n,)``.

    Raises:
        ConfigError: If they do not name exactly the basis distributions.
    """
    if not isinstance(rule, Mapping):
        assert rule == "uniform", "what goes by tokens is refused where the configuration is read"
        return uniform_weights(len(mixtures.names))
    noun = "basis distribution"
    if mistakes := list(misnamed(("mixing", key), rule, mixtures.names, frozenset(), noun=noun)):
        raise config.error(mistakes)
    weights = np.array([rule[name] for name in mixtures.names], dtype=np.float64)
    return weights / weights.sum()


def _check_clustering(path: Path, basis: Basis, folders: Sequence[ShardFolder]) -> None:
    for folder in folders:
        grouping = folder.manifest.grouping
        found = None if grouping is None else grouping.classifier
        if found != basis.clustering:
            raise ConfigError(
                f"{manifest_path(folder.source.path)}: grouping.classifier: expected "
                f"{basis.clustering[:16]}, the clustering that {path} is of, "
                f"found {'none' if found is None else found[:16]}"
            )


def _check_domains(
    path: Path, basis: Basis, names: Sequence[str], left_out: AbstractSet[str]
) -> None:
    known = {*names, *left_out}
    if len(basis.domains) != len(known):
        raise ConfigError(
            f"{path}: domains: expected the {len(known)} of the shards, found {len(basis.domains)}"
        )
    for name in basis.domains:
        if name not in known:
            raise ConfigError(f"{path}: domains: expected those of the shards, found {name}")


def _over(path: Path, basis: Basis, names: Sequence[str]) -> tuple[Mixtures, FloatArray]:
    """Return the rows over the domains that a run has, and what they had in others."""
    places = {name: place for place, name in enumerate(names)}
    columns = np.array([places.get(name, -1) for name in basis.domains], dtype=np.int64)
    rows = np.repeat(np.arange(len(basis.names), dtype=np.int64), np.diff(basis.indptr))
    indices = columns[basis.indices]
    kept = indices >= 0
    counts = np.bincount(rows[kept], minlength=len(basis.names))
    if not counts.all():
        raise ConfigError(
            f"{path}: {basis.names[int(np.argmin(counts))]}: expected a share in a domain that is "
            "long enough for a sequence (data.too_short), found none"
        )
    rows, indices, shares = rows[kept], indices[kept], basis.data[kept]
    order = np.lexsort((indices, rows))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    masses = row_sums(shares, indptr)
    if not kept.all():
        shares = shares / masses[rows]
    lost = np.zeros(len(counts)) if kept.all() else np.maximum(1.0 - masses, 0.0)
    return Mixtures(basis.names, len(names), indptr, indices[order], shares[order]), lost


def _digest(basis: Basis) -> str:
    digest = hashlib.sha256(basis.clustering.encode())
    for names in (basis.names, basis.domains):
        digest.update("\n".join(names).encode() + b"\0")
    for array in (basis.indptr, basis.indices, basis.data):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
