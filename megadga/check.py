"""Validates a run and reports what it would do, without starting it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from megadga.arrays import FloatArray
from megadga.config.deepspeed import accumulation_steps, describe_settings
from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.config.sections import LossReweightingSection
from megadga.data.domain import Domain, SequenceSet
from megadga.data.examples import Examples
from megadga.data.folder import DomainSource
from megadga.data.manifest import read_manifest
from megadga.data.sampler import cap_weights
from megadga.data.verify import FolderCheck, find_folders, plan_checks
from megadga.mixers.base import AlignmentNeeds, LossNeeds, StepNeeds, TargetNeeds
from megadga.mixers.probing import Directional, InFlight, Probe, Sharded
from megadga.prepare.leakage.search import LeakageRule, LeakageSearch, plan_search
from megadga.probes.overhead import PassCounts, num_compared, num_measured, predicted_overhead
from megadga.report.domains import DomainInfo
from megadga.run_folder.checkpoints import CHECKPOINTS, find_checkpoint
from megadga.train.data import RunData, open_data
from megadga.train.described import describe_domains
from megadga.train.mixture import Mixture, RunBasis
from megadga.train.models import llama_size, model_size
from megadga.train.opening import open_with_rule
from megadga.train.paths import check_output
from megadga.train.plausibility import find_warnings
from megadga.train.saved import SavedRun
from megadga.train.trace_size import check_limit, predict_trace
from megadga.train.trained import open_initial

MAX_ROWS = 40
"""Domains that the table lists; where there are more, the ones with the most epochs."""

MAX_GROUPS = 8
"""Groups that are listed, the largest first."""


def check(config: RunConfig, *, world_size: int | None = None) -> Iterator[str]:
    """Validate a run against its shards and yield what it comes to, line by line.

    Everything is validated before the first line. What can be done, and can hardly be meant, comes
    last, a ``warning:`` a line.

    Args:
        config: The run.
        world_size: Ranks that it is meant for; None: not known yet.

    Raises:
        ConfigError: If the configuration contradicts the shards or the number of ranks, or the
            output folder cannot be made.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
    """
    check_output(config)
    _, data, mixture = open_with_rule(config)
    weights = mixture.scheduler.init().averaged_weights
    epochs = _epochs(config, data, weights)
    is_new = find_checkpoint(config.output / CHECKPOINTS) is None
    info = describe_domains(config, data, is_new=is_new)
    entries = {
        "model": _model(config, data),
        "data": _data(data),
        **_groups(info),
        **_dialogues(data),
        "training": _training(config),
        "deepspeed": describe_settings(config),
        "ranks": _ranks(config, world_size),
        "probe": _probe(config, data, mixture),
        "evaluation": _evaluation(config, data),
    }
    if (initial := open_initial(config, data.tokenizer)) is not None:
        entries["starts from"] = _initial(initial)
    if data.basis is not None:
        entries["basis"] = _basis(data.basis)
    if data.reference is not None:
        entries["reference"] = _reference(data.reference)
    if config.training.loss_reweighting is not None:
        entries["reweighting"] = _reweighting(config, config.training.loss_reweighting, world_size)
    if config.trace is not None:
        entries["trace"] = _trace(config, data, world_size)
    if data.excluded:
        entries["left out"] = _excluded(data, mixture)
    for label, text in entries.items():
        yield f"{label:<12}{text}"
    yield ""
    yield from _table(data, weights, epochs)
    if warnings := list(find_warnings(config, data, mixture, epochs)):
        yield ""
        yield from (f"warning: {config.format_issue(each)}" for each in warnings)


def plan_leakage(config: RunConfig, rule: LeakageRule) -> tuple[LeakageSearch, ...]:
    """Plan to look for the validation splits of a run's specific sets in its training domains.

    Args:
        config: The run.
        rule: What counts as leakage.

    Raises:
        ConfigError: If no specific set has a validation split, or one has only shorter documents.
        ShardError: If a shard is missing, damaged, too short or by another tokenizer.
    """
    domains = open_data(config).domains
    sources = [DomainSource(name, each.path) for name, each in config.data.specific.items()]
    held_out = [s for s in sources if read_manifest(s.path).num_documents("valid")]
    if not held_out:
        expected = "a set with a validation split"
        raise config.invalid("data", "specific", expected=expected, found="none")
    return tuple(plan_search(source, domains, rule) for source in held_out)


def plan_verification(config: RunConfig) -> tuple[FolderCheck, ...]:
    """Return what is to be read to compare every byte of a run's shards with their manifests.

    Args:
        config: The run.
    """
    domains = config.data.domains
    paths = [domains] if isinstance(domains, Path) else [each.path for each in domains]
    paths += [each.path for each in config.data.specific.values()]
    folders = dict.fromkeys(folder for path in paths for folder in find_folders(path))
    return tuple(map(plan_checks, folders))


def _model(config: RunConfig, data: RunData) -> str:
    size = model_size(config, data.tokenizer, data.architecture)
    vocabulary = f"{data.vocabulary_size:,} tokens in the vocabulary"
    return f"{size.description}, {size.num_parameters:,} parameters, {vocabulary}"


def _data(data: RunData) -> str:
    text = _count(len(data.domains), "domain")
    if data.specific:
        sets = ", ".join(f"{each.name} ({_sequences(each)})" for each in data.specific)
        text = f"{text} and the specific {'set' if len(data.specific) == 1 else 'sets'} {sets}"
    tokenizer = data.tokenizer
    return f"{text}, all by {tokenizer.kind} {tokenizer.fingerprint[:12]}"


def _groups(info: DomainInfo) -> dict[str, str]:
    """Say how many domains each group has, if there are any."""
    counts = {group: len(members) for group, members in info.groups.items()}
    if not counts:
        return {}
    largest = sorted(counts, key=lambda group: -counts[group])[:MAX_GROUPS]
    listed = ", ".join(f"{group} ({counts[group]:,})" for group in largest)
    more = f" and {len(counts) - MAX_GROUPS:,} more" if len(counts) > MAX_GROUPS else ""
    rest = len(info.names) - sum(counts.values())
    return {"groups": f"{listed}{more}; {_count(rest, 'domain')} in none"}


def _dialogues(data: RunData) -> dict[str, str]:
    """Say what is trained of domains of dialogues, if there are any."""
    chat = [domain for domain in data.domains if domain.trained is not None]
    if not chat:
        return {}
    share = sum(each.num_trained for each in chat) / sum(each.num_tokens for each in chat)
    windows = sum(each.num_windows for each in chat)
    without = windows - sum(each.num_sequences for each in chat)
    domains = _count(len(chat), "domain")
    return {
        "dialogues": f"{domains} with {share:.1%} of their tokens trained; {without:,} of "
        f"{_count(windows, 'window')} without a trained token left out"
    }


def _excluded(data: RunData, mixture: Mixture) -> str:
    domains = _count(len(data.excluded), "domain")
    tokens = _count(sum(data.excluded.values()), "token")
    text = f"{domains} too short for a window, with {tokens} in all"
    return f"{text} and {mixture.lost_mass:.2%} of the histogram" if mixture.lost_mass else text


def _basis(basis: RunBasis) -> str:
    mixtures = basis.mixtures
    rows = _count(len(mixtures.names), "distribution")
    entries = f"{mixtures.num_entries:,} shares above 0"
    text = f"{rows} over {_count(mixtures.num_domains, 'domain')}, {entries}"
    if not basis.lost_mass.any():
        return text
    worst = int(np.argmax(basis.lost_mass))
    return (
        f"{text}; {basis.lost_mass[worst]:.2%} of {mixtures.names[worst]} was in domains left out"
    )


def _initial(initial: SavedRun | Path) -> str:
    if isinstance(initial, Path):
        return f"the Llama of Hugging Face in {initial}"
    return f"{initial.checkpoint}, trained for {_count(initial.step, 'step')}"


def _reference(reference: SavedRun) -> str:
    section = reference.config.model
    assert isinstance(section, LlamaModel)  # by `open_reference`
    size = llama_size(section, section.vocabulary_size or reference.tokenizer.vocab_size)
    what = f"{size.description}, {size.num_parameters:,} parameters on every rank"
    return f"{reference.checkpoint} ({what}): a forward pass on each batch"


def _reweighting(
    config: RunConfig, section: LossReweightingSection, world_size: int | None
) -> str:
    temperature = section.temperature
    if isinstance(temperature, tuple):
        stages = (f"{stage.temperature:g} from step {stage.step:,}" for stage in temperature)
        what = f"{section.strategy} at temperature {', '.join(stages)}"
    else:
        what = f"{section.strategy} at temperature {temperature:g}"
    more = "a forward pass more on each batch, a third of its time"
    if world_size is None:
        return f"{what}: where a rank has several micro-batches per step, {more}"
    return f"{what}: {more if accumulation_steps(config, world_size) > 1 else 'no more passes'}"


def _sequences(specific: SequenceSet) -> str:
    sequences = _count(specific.num_sequences, "sequence")
    if not isinstance(specific, Examples):
        return sequences
    longer, padding = f"{specific.num_long:,} longer than one", f"{specific.padding_share:.1%}"
    if not specific.has_spans:
        examples = _count(specific.num_documents, "example")
        return f"{examples} in {sequences}, {longer}, {padding} padding"
    dialogues = _count(specific.num_documents, "dialogue")
    without = f"{specific.num_left_out:,} more without a trained token left out"
    trained = f"{specific.num_trained:,} of {_count(specific.num_tokens, 'token')} trained"
    return f"{dialogues} in {sequences}, {longer}, {without}, {trained}, {padding} padding"


def _training(config: RunConfig) -> str:
    steps, batch = config.training.steps, config.training.global_batch_size
    length = config.model.sequence_length
    total = f"{steps * batch * length:,} tokens"
    return f"{steps:,} steps x {batch:,} sequences x {length:,} tokens = {total}"


def _ranks(config: RunConfig, world_size: int | None) -> str:
    micro = config.training.micro_batch_size
    if world_size is None:
        most = config.training.global_batch_size // micro
        return f"any number that divides {most} (micro-batches of {_count(micro, 'sequence')})"
    steps = accumulation_steps(config, world_size)
    return f"{world_size} x {_count(micro, 'sequence')} x {_count(steps, 'accumulation step')}"


def _trace(config: RunConfig, data: RunData, world_size: int | None) -> str:
    """Return the size of the trace, refusing one that may not be so large."""
    if not isinstance(config.model, LlamaModel):
        return "said when the run starts"
    size = predict_trace(config, config.model, data.vocabulary_size, ranks=world_size or 1)
    check_limit(config, size)
    return str(size)


def _probe(config: RunConfig, data: RunData, mixture: Mixture) -> str:
    needs = mixture.scheduler.observes
    if isinstance(needs, StepNeeds | LossNeeds):
        what = "go by the step" if isinstance(needs, StepNeeds) else "follow training's losses"
        if needs == LossNeeds(reference=True):
            what = f"{what} above the reference's"
        if needs == LossNeeds(output_norms=True):
            what = "follow the norms of the loss's gradient at the output"
        interval = 1 if mixture.updates is None else mixture.updates.interval
        return f"none: the weights {what}, every {_count(interval, 'step')}"
    if mixture.probe is None or mixture.updates is None:
        return "none: the weights stay as they are"
    if not isinstance(needs, AlignmentNeeds | TargetNeeds):
        return "none: the weights stay as they are"
    domains, batch = num_measured(needs, len(data.domains)), config.training.global_batch_size
    overhead = predicted_overhead(
        mixture.probe,
        num_domains=domains,
        interval=mixture.updates.interval,
        global_batch_size=batch,
        needs=needs,
    )
    compared = num_compared(needs, mixture.probe, domains)
    reads = _product(overhead.specific, compared)
    if overhead.domains.times:
        of_domains = _product(overhead.domains, domains, mixture.probe.sequences_per_domain)
        reads = f"{of_domains} + {reads}"
    if overhead.losses.times:
        reads = f"{reads} + {_product(overhead.losses, compared)} for losses"
    updates = mixture.updates
    quotient = f"({reads}) / ({updates.interval} x {batch})"
    most = "at most " if isinstance(mixture.probe, InFlight) else ""
    text = (
        f"every {updates.interval} steps: {quotient} = {most}{overhead.share:.1%} more sequences"
    )
    if updates.early_steps:
        early = f"every {updates.early_interval} steps up to step {updates.early_steps}, then "
        text = f"{early}{text}"
    return f"{text}; {_gradients(mixture.probe, domains, needs)}"


def _product(reads: PassCounts, *factors: int) -> str:
    times = factors if reads.times == 1 else (*factors, reads.times)
    product = " x ".join(map(str, times))
    return product if reads.every == 1 else f"{product} / {reads.every}"


def _gradients(probe: Probe, domains: int, needs: AlignmentNeeds | TargetNeeds) -> str:
    """Say what a probe forms and reduces over the ranks, which counting sequences leaves out."""
    match probe:
        case Sharded():
            targets = needs.num_targets if isinstance(needs, TargetNeeds) else 1
            return f"sharded: {targets * (domains + 1)} whole gradients per update"
        case Directional() if needs.norms:
            return f"directional, with {domains} whole gradients per update for the norms"
        case Directional():
            return "directional: no domain's gradient is formed"
        case InFlight():
            return "in flight: no domain's gradient is formed"


def _evaluation(config: RunConfig, data: RunData) -> str:
    if config.evaluation is None:
        return "none"
    domains = f"{len(data.held_out):,} of {_count(len(data.domains), 'domain')}"
    specific = ", ".join(map(_held_out, data.held_out_specific)) or "no specific set"
    most = config.evaluation.sequences
    interval = config.evaluation.interval
    total = sum(
        min(held.num_sequences, most) for held in (*data.held_out, *data.held_out_specific)
    )
    each = f"up to {most} sequences each, {total:,} in all"
    return f"every {interval} steps: {domains}, {specific}; {each}"


def _held_out(held: SequenceSet) -> str:
    if not isinstance(held, Examples) or not held.has_spans:
        return held.name
    return f"{held.name} ({held.num_trained:,} of {held.num_tokens:,} tokens trained)"


def _table(data: RunData, weights: FloatArray, epochs: FloatArray) -> Iterator[str]:
    """Yield what each domain holds, and how often it is repeated if the weights stay so."""
    held_out = {domain.name: domain.num_tokens for domain in data.held_out}
    listed = np.sort(np.argsort(-epochs, kind="stable")[:MAX_ROWS])
    trained = any(domain.trained is not None for domain in data.domains)
    rows = [
        ("domain", "tokens", *(("trained",) if trained else ()), "held out", "weight", "epochs")
    ]
    for index in map(int, listed):
        domain = data.domains[index]
        held = f"{held_out[domain.name]:,}" if domain.name in held_out else "none"
        shares = f"{weights[index]:.4f}", f"{epochs[index]:.3f}"
        tokens = f"{domain.num_tokens:,}", *((_trained(domain),) if trained else ())
        rows.append((domain.name, *tokens, held, *shares))
    align = ("left", *(["right"] * (len(rows[0]) - 1)))
    table = tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align)
    yield from table.split("\n")
    if len(listed) < len(epochs):
        left = np.delete(epochs, listed)
        yield f"and {_count(left.size, 'domain')} more with at most {left.max():.3f} epochs"


def _trained(domain: Domain) -> str:
    """Return the share of a domain's tokens that is trained."""
    return f"{domain.num_trained / domain.num_tokens:.1%}"


def _epochs(config: RunConfig, data: RunData, weights: FloatArray) -> FloatArray:
    """Return how often the run goes through each domain at fixed weights, shape ``(K,)``."""
    sizes = np.array([domain.num_sequences for domain in data.domains], dtype=np.int64)
    drawn = config.training.steps * config.training.global_batch_size
    if config.sampling.max_epochs is not None:
        limits = np.floor(config.sampling.max_epochs * sizes).astype(np.int64)
        weights = cap_weights(weights, limits, drawn)
    return weights * drawn / sizes


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
