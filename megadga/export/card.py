"""The model card of an exported model: what it was trained on, how the mixture moved, losses."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from megadga.config.run import RunConfig
from megadga.report.history import averaged_weights
from megadga.report.records import (
    Record,
    RunRecords,
    counts_by_name,
    number_at,
    numbers_by_name,
    read_metrics,
)

_DOMAINS_SHOWN = 50
_UPDATES_SHOWN = 12
_LEADING = 5
"""Weights of an update that are shown, the largest first."""


@dataclass(frozen=True)
class ModelFacts:
    """What a card says that is not in the run's files.

    Attributes:
        title: The model's name.
        step: Optimizer steps that it was trained for.
        num_parameters: Number of parameters, tied ones once.
        dtype: Type of the exported weights, as torch calls it.
        tokenizer: A line about the tokenizer.
        version: Version of this package.
    """

    title: str
    step: int
    num_parameters: int
    dtype: str
    tokenizer: str
    version: str


_COMMAND = "`megadga train config.yaml`, or `megadga launch` of a cluster, trains it:"


def model_card(config: RunConfig, metrics: Path, facts: ModelFacts) -> str:
    """Return the card, in Markdown with YAML front matter.

    Args:
        config: The run.
        metrics: Its ``metrics.jsonl``, of which the records up to the model's step are used.
        facts: The rest.

    Raises:
        ConfigError: If the metrics cannot be read.
    """
    run = read_metrics(metrics)
    sections = (
        _summary(config, facts),
        _data(config, run, facts.step),
        _mixture(config, run, facts.step),
        _losses(run, facts.step),
        f"## Tokenizer\n\n{facts.tokenizer}",
        "## License\n\nUnknown: it depends on the licenses of the data.",
        f"## Configuration\n\n{_COMMAND}\n\n```yaml\n{config.to_yaml()}```",
    )
    return "\n\n".join([_front_matter(facts), *filter(None, sections)]) + "\n"


def _front_matter(facts: ModelFacts) -> str:
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlicense: unknown\n"
        f"tags:\n- megadga\n- text-generation\n- data-mixing\n---\n\n# {facts.title}"
    )


def _summary(config: RunConfig, facts: ModelFacts) -> str:
    training, length = config.training, config.model.sequence_length
    tokens = facts.step * training.global_batch_size * length
    return (
        f"A language model of {facts.num_parameters:,} parameters, trained for {facts.step:,} of "
        f"{training.steps:,} steps on {tokens:,} tokens: {training.global_batch_size:,} sequences "
        f"of {length:,} a step, in {training.precision}. It has seen documents one after the "
        "other, each ended by the EOS token, and no other special token. Weights are stored in "
        f"{facts.dtype}.\n\n"
        f"Trained and exported with megadga {facts.version}, which chooses the mixture of domains "
        "while a model trains (https://arxiv.org/abs/2410.02498).\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{facts.title}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{facts.title}")\n```'
    )


def _data(config: RunConfig, run: RunRecords, step: int) -> str:
    """Return the table of the domains, those with the most tokens first."""
    sequences: Counter[str] = Counter()
    for record in _until(run.of("train"), step):
        if record.get("sequences_by_domain"):
            sequences.update(counts_by_name(run.path, record, "sequences_by_domain"))
    if not sequences:
        return ""
    total = sequences.total()
    rows = [
        (_cell(name), f"{count * config.model.sequence_length:,}", f"{count / total:.4f}")
        for name, count in sequences.most_common(_DOMAINS_SHOWN)
    ]
    headers = ("domain", "tokens seen", "share")
    return f"## Data\n\n{_table(headers, rows)}{_more(len(sequences))}"


def _mixture(config: RunConfig, run: RunRecords, step: int) -> str:
    """Return the weights that batches were sampled with: some of them over time, and the last."""
    found = [
        record
        for kind in ("event", "update")
        for record in _until(run.of(kind), step)
        if {"averaged_weights", "basis_averaged_weights"} & record.keys()
    ]
    rule = config.model_dump(include={"mixing"})["mixing"]["type"]
    parts = [f"## Mixture\n\nDomains are weighted by the rule `{rule}`."]
    if len(found) > 1:
        shown = [*_spread(found)]
        rows = [(f"{record['step']:,}", _leading(run, record)) for record in shown]
        parts.append(f"The largest weights, {len(shown):,} of {len(found):,} times:")
        parts.append(_table(("step", "largest weights"), rows))
    if found:
        last = averaged_weights(run.path, found[-1])
        rows = [(_cell(n), f"{w:.4f}") for n, w in Counter(last).most_common(_DOMAINS_SHOWN)]
        parts.append("The last weights:")
        parts.append(_table(("domain", "weight"), rows) + _more(len(last)))
    return "\n\n".join(parts)


def _leading(run: RunRecords, record: Record) -> str:
    weights = Counter(averaged_weights(run.path, record))
    return ", ".join(f"{_cell(name)} {w:.3f}" for name, w in weights.most_common(_LEADING))


def _losses(run: RunRecords, step: int) -> str:
    """Return the training loss and the last evaluation."""
    parts: list[str] = []
    for record in _until(run.of("train"), step)[-1:]:
        loss = number_at(run.path, record, "loss")
        parts.append(f"Training loss of step {record['step']:,}: {loss:.4f} nats per token.")
    for record in _until(run.of("evaluation"), step)[-1:]:
        losses = [
            (kind, name, loss)
            for key, kind in (("specific", "specific set"), ("domains", "domain"))
            if record.get(key)
            for name, loss in numbers_by_name(run.path, record, key).items()
        ]
        rows = [(kind, _cell(name), f"{loss:.4f}") for kind, name, loss in losses]
        parts.append(f"Held-out text at step {record['step']:,}, in nats per token:")
        parts.append(_table(("", "split", "loss"), rows[:_DOMAINS_SHOWN]) + _more(len(rows)))
    return "\n\n".join(["## Losses", *parts]) if parts else ""


def _until(records: Sequence[Record], step: int) -> list[Record]:
    return [record for record in records if record["step"] <= step]


def _spread(records: Sequence[Record]) -> Iterator[Record]:
    """Yield the first and last record, and some between them at equal distances."""
    count = min(len(records), _UPDATES_SHOWN)
    for number in range(count):
        yield records[number * (len(records) - 1) // max(count - 1, 1)]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _more(count: int) -> str:
    """Return a line below a table of ``_DOMAINS_SHOWN`` rows, if there are more."""
    return f"\n\nand {count - _DOMAINS_SHOWN:,} more." if count > _DOMAINS_SHOWN else ""


def _cell(name: str) -> str:
    """Return a name as it is shown in a table."""
    return name.replace("|", "\\|")
