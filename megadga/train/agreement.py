"""Finds ranks whose step, batch, weights or parameters differ from rank 0's.

Each rank adds a digest ``c`` of what should be equal, and ``c``², to the all-reduce of the step:
over ``W`` ranks, ``W Σc² = (Σc)²`` if and only if all ``c`` are equal (Cauchy-Schwarz). Only if
they are not, details are exchanged.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch

from megadga.arrays import FloatArray
from megadga.errors import RanksDifferError
from megadga.plugin import Batch
from megadga.probes.engine import is_partitioned
from megadga.train.ranks import Ranks

_DIGEST_BITS = 20
"""Sums of squares are exact in float64 up to 2^13 ranks; different values go unnoticed in one of
10^6 steps."""


MAX_RANKS = 2 ** (53 - 2 * _DIGEST_BITS)


_MAX_NAMED = 8
"""Ranks listed in an error; there may be thousands."""


_MAX_LISTED = 3
"""Differing values listed for a rank: all but those of parameters."""


@final
class StepAgreement:
    """Compares each step's number, batch and weights over the ranks. A ``StepTerm``.

    Args:
        ranks: All ranks.
        weights: Returns the weights that batches are sampled from, shape ``(K,)``; another array
            once they have changed.
    """

    size = 2

    def __init__(self, ranks: Ranks, weights: Callable[[], FloatArray]) -> None:
        self._ranks = ranks
        self._weights = weights
        self._hashed: tuple[FloatArray, str] | None = None
        self._exact = ranks.world_size <= MAX_RANKS

    def own(self, batch: Batch) -> FloatArray:
        """Return this rank's digest and its square."""
        digest = _number(self._parts(batch)) if self._exact else 0
        return np.array([digest, digest**2], dtype=np.float64)

    def update_from_sum(self, batch: Batch, total: FloatArray) -> None:
        """Compare the ranks. Collective only if they differ.

        Raises:
            RanksDifferError: On every rank, if not all digests are equal.
        """
        digests, squares = map(int, total.tolist())
        if self._ranks.world_size * squares != digests**2:
            raise_differing(self._ranks, self._parts(batch), when=f"step {batch.step}")

    def _parts(self, batch: Batch) -> dict[str, str]:
        plan = hashlib.blake2b(batch.indices.global_domains.tobytes(), digest_size=8)
        plan.update(batch.indices.global_sequences.tobytes())
        return {
            "step": str(batch.step),
            "batch": plan.hexdigest(),
            "weights": self._hash_of_weights(),
        }

    def _hash_of_weights(self) -> str:
        weights = self._weights()
        if self._hashed is None or self._hashed[0] is not weights:  # they may be 262,144
            self._hashed = weights, hashlib.blake2b(weights.tobytes(), digest_size=8).hexdigest()
        return self._hashed[1]


@final
class ParameterAgreement:
    """Compares the ranks' copies of a module's parameters bit by bit.

    Args:
        ranks: All ranks.
        engine: A DeepSpeed engine. Under ZeRO-3, which keeps no copies, nothing is compared.
    """

    def __init__(self, ranks: Ranks, engine: Any) -> None:
        self._ranks = ranks
        self._engine = engine

    def check(self, step: int) -> None:
        """Compare the parameters after a step. Collective.

        Raises:
            RanksDifferError: On every rank, if a rank has others than rank 0; names it and the
                first parameter that differs.
        """
        if is_partitioned(self._engine):
            return
        sums = _sums_of_bits(self._engine.module)
        digest = hashlib.blake2b(np.array([*sums.values()]).tobytes(), digest_size=8).hexdigest()
        if len(set(self._ranks.objects(digest))) > 1:
            own = {f"parameter {name}": str(total) for name, total in sums.items()}
            raise_differing(self._ranks, own, when=f"step {step}")


def raise_differing(ranks: Ranks, own: Mapping[str, str], *, when: str) -> None:
    """Exchange what should be equal, and raise. Collective.

    Args:
        ranks: All ranks.
        own: This rank's values, by name; the same names on every rank.
        when: At which step, for the message.

    Raises:
        RanksDifferError: On every rank.
    """
    everyone = ranks.objects((socket.gethostname(), dict(own)))
    differing = list(_describe(everyone))
    more = f" and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
    raise RanksDifferError(
        f"{when}: expected what rank 0 on {everyone[0][0]} has, found other values on "
        f"{'; '.join(differing[:_MAX_NAMED])}{more}"
    )


def _describe(everyone: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    """Yield each rank that differs from rank 0, its host, and in what."""
    first = everyone[0][1]
    for rank, (host, values) in enumerate(everyone):
        names = [name for name in first if values.get(name) != first[name]]
        if names:
            rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            yield f"rank {rank} on {host} ({', '.join(names[:_MAX_LISTED])}{rest})"


def _number(parts: Mapping[str, str]) -> int:
    """Return a digest of values below ``2 ** _DIGEST_BITS``."""
    digest = hashlib.blake2b(repr(sorted(parts.items())).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> (32 - _DIGEST_BITS)


_AS_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sums_of_bits(module: torch.nn.Module) -> dict[str, int]:
    """Return, for each parameter, the sum of its elements' bits as integers, modulo 2^64.

    Any bit that flips changes it. One transfer from the device.
    """
    named = {name: parameter.detach() for name, parameter in module.named_parameters()}
    if not named:
        return {}
    sums = [p.view(_AS_INTEGERS[p.element_size()]).sum(dtype=torch.int64) for p in named.values()]
    return dict(zip(named, torch.stack(sums).tolist(), strict=True))
