"""From a configuration to what the run reads. Knows no torch, so that a check starts at once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadga.config.histogram import read_histogram
from megadga.config.mixing import DgaMixing, ImportanceMixing
from megadga.config.models import RunConfig
from megadga.shards.domain import Domain
from megadga.shards.folder import (
    DomainSource,
    check_same_tokenizer,
    find_domains,
    open_domains,
)
from megadga.shards.manifest import Manifest, TokenizerIdentity, read_manifest


@dataclass(frozen=True)
class RunData:
    """Everything that a run reads.

    Attributes:
        domains: Training splits in the order of the weights, K of them.
        specific: Training split of the set that the mixture aligns to; None where none does.
        held_out: Validation splits of the domains that have a whole window there, in order; none
            without evaluation.
        held_out_specific: Validation splits of the specific sets that have one, in order.
        vocabulary_size: Rows of the model's embedding.
        identity: What the training splits and the histogram hold, JSON-shaped: equal for equal
            content, wherever it lies.
    """

    domains: tuple[Domain, ...]
    specific: Domain | None
    held_out: tuple[Domain, ...]
    held_out_specific: tuple[Domain, ...]
    vocabulary_size: int
    identity: Mapping[str, Any]

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """What wrote the tokens of every set."""
        return self.domains[0].tokenizer


def open_data(config: RunConfig) -> RunData:
    """Open the run's domains and specific sets: reads manifests and headers, no tokens.

    Raises:
        ShardError: If a set is missing or damaged, too short, or by another tokenizer.
        ConfigError: If the model's vocabulary is smaller than the tokenizer's.
    """
    length = config.model.sequence_length
    sources = _domain_sources(config)
    targets = tuple(DomainSource(name, s.path) for name, s in config.data.specific.items())
    manifests = {source: read_manifest(source.path) for source in (*sources, *targets)}
    aligned = targets if isinstance(config.mixing, DgaMixing) else ()
    domains = open_domains(sources, split="train", sequence_length=length)
    specific = open_domains(aligned, split="train", sequence_length=length)
    held_out: tuple[Domain, ...] = ()
    held_out_specific: tuple[Domain, ...] = ()
    if config.evaluation is not None:
        long_enough = [s for s in sources if manifests[s].num_tokens("valid") > length]
        held_out = open_domains(long_enough, split="valid", sequence_length=length)
        given = [target for target in targets if "valid" in manifests[target].splits]
        held_out_specific = open_domains(given, split="valid", sequence_length=length)
    check_same_tokenizer((*domains, *specific, *held_out_specific))
    tokenizer = domains[0].tokenizer
    return RunData(
        domains,
        specific[0] if specific else None,
        held_out,
        held_out_specific,
        vocabulary_size=_vocabulary_size(config, tokenizer),
        identity={
            "tokenizer": tokenizer.fingerprint,
            "domains": {source.name: _summary(manifests[source]) for source in sources},
            "specific": {target.name: _summary(manifests[target]) for target in aligned},
            "histogram": _histogram_digest(config),
        },
    )


def _domain_sources(config: RunConfig) -> Sequence[DomainSource]:
    where = config.data.domains
    if isinstance(where, Path):
        return find_domains(where)
    return tuple(DomainSource(folder.name, folder.path) for folder in where)


def _vocabulary_size(config: RunConfig, tokenizer: TokenizerIdentity) -> int:
    size = config.model.vocabulary_size
    if size is not None and size < tokenizer.vocab_size:
        raise config.mistake(
            "model",
            "vocabulary_size",
            expected=f"at least {tokenizer.vocab_size}, the tokenizer's",
            found=str(size),
        )
    return tokenizer.vocab_size if size is None else size


def _histogram_digest(config: RunConfig) -> str | None:
    if not isinstance(config.mixing, ImportanceMixing):
        return None
    masses = read_histogram(config.mixing.histogram)
    return hashlib.sha256(json.dumps(masses, sort_keys=True).encode()).hexdigest()[:16]


def _summary(manifest: Manifest) -> str:
    """Return what tells two training splits apart: tokens, and a digest of their checksums."""
    digest = hashlib.sha256()
    for entry in manifest.splits.get("train", ()):
        digest.update(f"{entry.tokens} {entry.bin_sha256}\n".encode())
    return f"{manifest.num_tokens('train')} tokens, {digest.hexdigest()[:16]}"
