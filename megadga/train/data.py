"""Opens the data of a run: domains, specific sets, validation splits (without torch)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megadga.config.mixing import ExtensionOptions
from megadga.config.run import RunConfig
from megadga.config.sections import EvaluatedSet, Packing
from megadga.data.content import Prefix, read_prefixes
from megadga.data.domain import Domain, SequenceSet
from megadga.data.examples import open_chat, open_examples
from megadga.data.folder import (
    DomainSource,
    OpenedSplit,
    ShardFolder,
    check_same_tokenizer,
    check_trained,
    open_all_domains,
    open_split,
    read_folder,
    read_folders,
)
from megadga.data.manifest import Manifest, TokenizerIdentity, read_manifest
from megadga.data.verify import DataFile, shard_files
from megadga.mixers.weights import MatchedWeights
from megadga.section import ConfigIssue, KeyPath
from megadga.train.best import check_best_loss
from megadga.train.mixture import RunBasis, open_basis
from megadga.train.models import check_model, open_architecture, vocabulary_rows
from megadga.train.paths import check_inputs
from megadga.train.saved import SavedRun
from megadga.train.trained import open_reference

if TYPE_CHECKING:
    from megadga.train.models import Architecture


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        domains: Training splits of the K domains, in the order of the weights.
        excluded: Training tokens of each domain shorter than a window, by name.
        specific: Training splits of the specific sets that the mixture depends on, in order; may
            be empty.
        held_out: Validation splits with at least one sequence of the domains, in order; empty
            without evaluation.
        held_out_specific: Validation splits of the specific sets that have one, and of the
            additional evaluation sets, in order.
        architecture: What transformers knows about the model; None of our own decoder.
        vocabulary_size: Rows of the model's embedding.
        basis: Basis distributions of the mixture; None: weights are over domains.
        reference: The reference model; None if the mixture uses none.
        identity: JSON-serializable digest of the training splits, the histogram, the basis and the
            reference, and of the validation splits if the mixture depends on them. Equal for equal
            content, independent of its location.
        files: All shard files of the run, by a name that is independent of their location.
        ignored_spans: Keys of folders of dialogues whose trained spans are ignored, so that the
            loss is on all their tokens, and how they are read.
        prefixes: Content of each domain, by name, in the order of the weights; see
            `megadga.data.content`.
    """

    domains: tuple[Domain, ...]
    excluded: Mapping[str, int]
    specific: tuple[SequenceSet, ...]
    held_out: tuple[Domain, ...]
    held_out_specific: tuple[SequenceSet, ...]
    architecture: "Architecture | None"
    vocabulary_size: int
    basis: RunBasis | None
    reference: SavedRun | None
    identity: Mapping[str, Any]
    files: Mapping[str, DataFile]
    ignored_spans: Mapping[KeyPath, str]
    prefixes: Mapping[str, tuple[Prefix, ...]]

    @property
    def tokenizer(self) -> TokenizerIdentity:
        """The tokenizer of all sets."""
        return self.domains[0].tokenizer


def open_data(config: RunConfig) -> RunData:
    """Open the run's domains and specific sets.

    Reads manifests, headers and the trained spans of dialogues, but no tokens.

    Raises:
        ShardError: If a set is missing, damaged, too short, or of another tokenizer.
        ConfigError: If the model's vocabulary is smaller than the tokenizer's, domains are too
            short and not excluded, a basis or reference model does not fit the run, or files or
            folders are missing, all of which are listed.
    """
    check_inputs(config)
    length = config.model.sequence_length
    folders = read_folders(_domain_sources(config))
    targets = _read_targets(config)
    aligned = targets if _reads_specific(config) else ()
    check_same_tokenizer((*folders, *targets))
    chat = _chat_domains(config, folders)
    opened = open_split(folders, split="train", sequence_length=length, chat=chat)
    check_trained(opened, folders, split="train")
    _check_lengths(config, opened)
    basis = open_basis(config, folders, opened)
    specific = _open_specific(config, aligned, split="train")
    held_out, held_out_specific = _held_out(config, folders, targets, opened)
    _check_guarded(config, held_out)
    check_best_loss(config, domains=held_out, specific=held_out_specific)
    tokenizer = folders[0].manifest.tokenizer
    architecture = open_architecture(config, tokenizer)
    check_model(config, tokenizer, architecture)
    reference = open_reference(config, tokenizer)
    digests = config.mixing.digests()
    return RunData(
        opened.domains,
        opened.too_short,
        specific,
        held_out,
        held_out_specific,
        architecture=architecture,
        vocabulary_size=vocabulary_rows(config, tokenizer, architecture),
        basis=basis,
        reference=reference,
        identity={
            "tokenizer": tokenizer.fingerprint,
            "vocabulary_size": tokenizer.vocab_size,
            "eod": tokenizer.eod,
            "domains": _identity(folders, opened),
            **({"chat": sorted(chat - opened.too_short.keys())} if chat else {}),
            "specific": {target.source.name: _summary(target.manifest) for target in aligned},
            "histogram": digests.get("histogram"),
            "basis": None if basis is None else basis.digest,
            "schedule": digests.get("schedule"),
            "reference": None if reference is None else reference.identity,
            **({} if architecture is None else {"architecture": architecture.values}),
            **({"held_out": _held_out_digest(folders)} if config.mixing.reads_evaluations else {}),
        },
        files=_files(config, folders, targets),
        ignored_spans=dict(_ignored_spans(config, folders, targets)),
        prefixes=read_prefixes(folders, {domain.name for domain in opened.domains}),
    )


def open_held_out(config: RunConfig) -> tuple[SequenceSet, ...]:
    """Open what a run evaluates, and nothing else of its data: domains first, as `Evaluation`.

    Raises:
        ShardError: If a set is missing, damaged, too short, or of another tokenizer.
        ConfigError: If domains are too short and not excluded.
    """
    folders = read_folders(_domain_sources(config))
    targets = _read_targets(config)
    check_same_tokenizer((*folders, *targets))
    length = config.model.sequence_length
    opened = open_split(folders, split="train", sequence_length=length)
    _check_lengths(config, opened)
    held_out, specific = _held_out(config, folders, targets, opened)
    return (*held_out, *specific)


def open_specific(config: RunConfig) -> tuple[SequenceSet, ...]:
    """Open the training splits of a run's specific sets, whether or not its rule reads them.

    Raises:
        ShardError: If a set is missing, damaged or too short.
    """
    return _open_specific(config, _read_targets(config), split="train")


def open_training(
    config: RunConfig,
) -> tuple[tuple[Domain, ...], RunBasis | None, Mapping[str, str] | str]:
    """Open the training splits of a run's domains and nothing else of its data.

    Returns:
        The domains, the basis of the mixture, and the domains' part of ``RunData.identity``.

    Raises:
        ShardError: If a domain is missing, damaged, or of another tokenizer than the others.
        ConfigError: If domains are too short and not excluded, or the basis does not fit them.
    """
    folders = read_folders(_domain_sources(config))
    chat = _chat_domains(config, folders)
    length = config.model.sequence_length
    opened = open_split(folders, split="train", sequence_length=length, chat=chat)
    _check_lengths(config, opened)
    return opened.domains, open_basis(config, folders, opened), _identity(folders, opened)


def _read_targets(config: RunConfig) -> tuple[ShardFolder, ...]:
    return tuple(
        read_folder(DomainSource(name, target.path))
        for name, target in config.data.specific.items()
    )


def _ignored_spans(
    config: RunConfig, folders: Sequence[ShardFolder], targets: Sequence[ShardFolder]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys of folders with trained spans that are not read as dialogues."""
    for folder in targets:
        name = folder.source.name
        packing = config.data.specific[name].packing
        if packing != "chat" and _has_spans(folder):
            yield ("data", "specific", name, "packing"), packing
    for name, evaluated in (config.evaluation.sets if config.evaluation else {}).items():
        manifest = read_manifest(evaluated.path)
        if evaluated.packing != "chat" and manifest.num_trained("valid") is not None:
            yield ("evaluation", "sets", name, "packing"), evaluated.packing
    yielded: set[KeyPath] = set()  # one key may be for thousands of domains
    for folder in filter(_has_spans, folders):
        names = folder.domains.names
        chat = config.data.chat_domains(names)
        ignored = next((name for name in names if name not in chat), None)
        if ignored is not None and (key := config.data.packing_key(ignored)) not in yielded:
            yielded.add(key)
            yield key, f"stream for {ignored}"


def _has_spans(folder: ShardFolder) -> bool:
    return folder.manifest.num_trained("train") is not None


def _chat_domains(config: RunConfig, folders: Sequence[ShardFolder]) -> frozenset[str]:
    """Return the names of the domains with packing chat.

    Raises:
        ConfigError: If `data.packing` names other domains than there are.
    """
    names = [name for folder in folders for name in folder.domains.names]
    packing = config.data.packing
    if not isinstance(packing, str) and (unknown := packing.keys() - {*names}):
        issues: list[ConfigIssue] = []
        for name in sorted(unknown):
            close = get_close_matches(name, names, n=1)
            hint = repr(close[0]) if close else ""
            expected = "the name of a domain"
            issues.append(ConfigIssue(("data", "packing", name), expected, repr(name), hint))
        raise config.error(issues)
    chat = config.data.chat_domains(names)
    for folder in folders:
        trained = next((name for name in folder.domains.names if name in chat), None)
        if trained is not None and not _has_spans(folder):
            raise config.invalid(
                *config.data.packing_key(trained),
                expected="stream, or dialogues with trained spans (megadga data build --chat)",
                found=f"chat for {trained}, whose shards have none",
            )
    return chat


def _files(
    config: RunConfig, folders: Sequence[ShardFolder], targets: Sequence[ShardFolder]
) -> dict[str, DataFile]:
    splits = ("train",) if config.evaluation is None else ("train", "valid")
    files: dict[str, DataFile] = {}
    for kind, group in (("domains", folders), ("specific", targets)):
        for folder in group:
            entries = [e for split in splits for e in folder.manifest.splits.get(split, ())]
            name = f"{kind}/{folder.source.name}"
            files |= shard_files(folder.source.path, entries, name=name)
    return files


def _reads_specific(config: RunConfig) -> bool:
    """Return whether the mixture may depend on the specific sets.

    An extension's needs are unknown until its scheduler is created for the domains.
    """
    objective = config.training.domain_weights
    if config.mixing.matches_specific or isinstance(objective, MatchedWeights):
        return True
    if isinstance(config.mixing, ExtensionOptions):
        return len(config.data.specific) == 1
    return config.mixing.aligns_to_specific


def _domain_sources(config: RunConfig) -> Path | Sequence[DomainSource]:
    where = config.data.domains
    if isinstance(where, Path):
        return where
    return tuple(DomainSource(folder.name, folder.path) for folder in where)


def _check_lengths(config: RunConfig, opened: OpenedSplit) -> None:
    """Check that there are domains, and that too short ones are to be excluded."""
    window = f"{config.model.sequence_length + 1} tokens (one window of model.sequence_length + 1)"
    if opened.too_short and config.data.too_short == "refuse":
        name, tokens = next(iter(opened.too_short.items()))
        others = len(opened.too_short) - 1
        raise config.invalid(
            "data",
            "too_short",
            expected=f"at least {window} in every domain, or leave_out",
            found=f"{tokens} in {name}" + (f" and too few in {others} more" if others else ""),
        )
    if not opened.domains:
        raise config.invalid(
            "data", "domains", expected=f"a domain of at least {window}", found="none"
        )


def _held_out(
    config: RunConfig,
    folders: Sequence[ShardFolder],
    targets: Sequence[ShardFolder],
    opened: OpenedSplit,
) -> tuple[tuple[Domain, ...], tuple[SequenceSet, ...]]:
    """Return the validation splits of the training domains and of the specific sets."""
    if config.evaluation is None:
        return (), ()
    length = config.model.sequence_length
    held_out = open_split(
        _with_valid(folders),
        split="valid",
        sequence_length=length,
        chat=_chat_domains(config, folders),
    ).domains
    if opened.too_short:
        held_out = tuple(domain for domain in held_out if domain.name not in opened.too_short)
    specific = _open_specific(config, _with_valid(targets), split="valid")
    return held_out, (*specific, *_open_evaluated(config, folders, config.evaluation.sets))


def _open_evaluated(
    config: RunConfig, folders: Sequence[ShardFolder], sets: Mapping[str, EvaluatedSet]
) -> Iterator[SequenceSet]:
    """Open the validation splits of the additional evaluation sets."""
    for name, evaluated in sets.items():
        folder = read_folder(DomainSource(name, evaluated.path))
        check_same_tokenizer((folders[0], folder))
        if "valid" not in folder.manifest.splits:
            key = ("evaluation", "sets", name, "path")
            raise config.invalid(*key, expected="a validation split", found="none")
        yield from _packed(config, folder, evaluated.packing, split="valid")


def _check_guarded(config: RunConfig, held_out: Sequence[Domain]) -> None:
    """Check that a general guard that was asked for has validation losses of the domains."""
    asked = config.mixing.reads_evaluations and config.is_set("mixing", "general_guard")
    if asked and not held_out:
        raise config.invalid(
            "mixing",
            "general_guard",
            expected="null without evaluation"
            if config.evaluation is None
            else "null, or a domain with at least one window in its validation split",
            found="a guard without validation losses",
        )


def _held_out_digest(folders: Sequence[ShardFolder]) -> str:
    digest = hashlib.sha256()
    for folder in _with_valid(folders):
        digest.update(f"{folder.source.name} {_summary(folder.manifest, 'valid')}\n".encode())
        if folder.manifest.grouping is not None:
            digest.update(folder.domains.bounds["valid"].tokens.tobytes())
    return digest.hexdigest()[:16]


def _open_specific(
    config: RunConfig, targets: Sequence[ShardFolder], *, split: str
) -> tuple[SequenceSet, ...]:
    """Open one split of specific sets, with the packing configured for each."""
    specific = config.data.specific
    return tuple(
        each
        for target in targets
        for each in _packed(config, target, specific[target.source.name].packing, split=split)
    )


def _packed(
    config: RunConfig, folder: ShardFolder, packing: Packing, *, split: str
) -> Sequence[SequenceSet]:
    length = config.model.sequence_length
    match packing:
        case "stream":
            return open_all_domains([folder], split=split, sequence_length=length)
        case "examples":
            return [open_examples(folder.source, split=split, sequence_length=length)]
        case "chat":
            return [open_chat(folder.source, split=split, sequence_length=length)]


def _with_valid(folders: Sequence[ShardFolder]) -> Sequence[ShardFolder]:
    return [folder for folder in folders if "valid" in folder.manifest.splits]


def _identity(folders: Sequence[ShardFolder], opened: OpenedSplit) -> Mapping[str, str] | str:
    """Return digests of the training splits: per domain, or one for grouped shards."""
    grouped = [folder for folder in folders if folder.manifest.grouping is not None]
    if not grouped:
        return {
            folder.source.name: _summary(folder.manifest)
            for folder in folders
            if folder.source.name not in opened.too_short
        }
    (folder,) = grouped
    bounds = folder.domains.bounds["train"].tokens
    digest = hashlib.sha256("\n".join(folder.domains.names).encode())
    digest.update(bounds.tobytes())
    names = f"{len(folder.domains.names)} domains, {digest.hexdigest()[:16]}"
    return f"{names}, {_summary(folder.manifest)}"


def _summary(manifest: Manifest, split: str = "train") -> str:
    """Return the identity of a split: its number of tokens and a digest of its checksums."""
    digest = hashlib.sha256()
    for entry in manifest.splits.get(split, ()):
        digest.update(f"{entry.tokens} {entry.bin_sha256}\n".encode())
        if entry.spans_sha256 is not None:
            digest.update(f"{entry.spans_sha256}\n".encode())
    return f"{manifest.num_tokens(split)} tokens, {digest.hexdigest()[:16]}"
