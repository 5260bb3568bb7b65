"""`megadga value`: what every trained sequence was worth for a target, by domain and phase."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from megadga.arrays import FloatArray
from megadga.commands.command import Command
from megadga.config.yaml_source import dump
from megadga.console import count, parse_step, parse_whole_number
from megadga.data.domain import Domain
from megadga.data.files import atomic_write
from megadga.data.located import documents_of_window
from megadga.errors import ConfigError, ShardError
from megadga.launch.quiet import quieten
from megadga.prepare.progress import ProgressBars, Stages
from megadga.run_folder.trace import TracedStep, TraceFile, TraceHeader, open_trace
from megadga.train.replay import open_recorded
from megadga.train.saved import SavedRun, open_saved
from megadga.use.sets import EvaluatedSet, SetOptions, open_shard_sets
from megadga.value.documents import encode_documents, value_documents
from megadga.value.output import ListedDocuments, ListedSequence, ValuedRun, as_json, tables
from megadga.value.phases import scheduled_weights, values_by_phase
from megadga.value.recursion import SequenceValues, sequence_values

_EPILOG = """\
examples:
  megadga value runs/example --target pubmedqa
  megadga value runs/example --target pubmedqa --phases 8 --top 20
  megadga value runs/example --target law=shards/law --split valid --json > law.json
  megadga value runs/example --target pubmedqa --documents documents.jsonl
  megadga value runs/example --target pubmedqa --schedule schedule.yaml

RUN is a run that was trained with `trace: {}` in its configuration, which keeps the projected
gradient of every sequence. --target is a specific or evaluation set of the run, or NAME=SHARDS;
its validation split is taken where it has one. The latest checkpoint is the end (or --step).

The value of a sequence is by how much the target's loss at the end would be higher, in nats a
token and to first order, had its gradient been left out of its step (data value embedding, arXiv
2412.09538): above 0 it helped. The table has, of each domain, the mean over its sequences with a
standard error, and the sum over each phase of the run: when the domain mattered. Values add up.

All values are written to RUN/values/NAME.npz (values, first_order, domains, windows; each of
shape steps x sequences) and what is printed to NAME.json. --documents writes a JSON line for each
document that was trained on, the largest value first: domain, shard, number in it, id (where
shards carry ids), value, tokens, sequences. A sequence's value is shared over the documents that
it spans by the targets that each has in it; which of them made it is not known.

--schedule writes the `mixing` section of a run that gives each domain more weight in phases in
which a sequence of it was worth more.

They are estimates: good for the last steps, rough for the first ones, and under AdamW of the
right order only. docs/value.md says how good.
"""
_BATCH_SIZE = 8


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's output folder")
    add("--target", required=True, metavar="SET", help="a set of the run, or NAME=SHARDS")
    add("--split", choices=("train", "valid"), help="of the target (default: valid if it has one)")
    add("--limit", type=count, metavar="N", help="windows of the target at most (all)")
    add("--step", type=parse_step, metavar="N", help="checkpoint that is the end (the latest)")
    add("--phases", type=count, default=4, metavar="P", help="parts of the run (4)")
    add(
        "--top",
        type=lambda text: parse_whole_number(text, least=0),
        default=5,
        metavar="N",
        help="sequences and documents that are listed, of the most helpful and of the most "
        "harmful (5)",
    )
    add("--documents", type=Path, metavar="FILE", help="write what each document was worth")
    add("--schedule", type=Path, metavar="FILE", help="write a schedule's YAML")
    add(
        "--strength",
        type=_strength,
        default=1.0,
        metavar="X",
        help="of the schedule: exponent of a domain one deviation above the average, from 0 (1)",
    )
    add("--batch-size", type=count, default=_BATCH_SIZE, metavar="N", help="windows of a pass (8)")
    add("--device", metavar="NAME", help="as cpu or cuda:1 (default: an accelerator if any)")
    add("--json", action="store_true", help="print JSON instead of tables")


def _strength(text: str) -> float:
    try:
        if 0.0 <= (found := float(text)) < float("inf"):
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number from 0 on, found {text[:80]!r}")


def _value(options: argparse.Namespace) -> int:
    run = open_saved(options.run, step=options.step)
    if options.phases > run.step:
        raise ConfigError(f"--phases: expected at most {run.step} steps, found {options.phases}")
    files = open_trace(options.run, num_steps=run.step)
    name, sets = _open_target(run, options)
    with ProgressBars() as bars:
        target, loss = _gradient(run, sets, files[0].header, options, bars)
        advance = bars("values", run.step, " steps")
        found = sequence_values(
            target,
            files[0].header.sizes,
            _backwards(files, run.step),
            num_steps=run.step,
            advance=advance,
        )
    header = files[0].header
    phases = values_by_phase(found, num_phases=options.phases, num_domains=len(header.domains))
    domains = _trained_domains(options, header)
    helpful, harmful = _listed(options, found, domains)
    documents = None if options.documents is None else value_documents(found, domains)
    valued = ValuedRun(
        options.run,
        run.step,
        name,
        loss,
        header,
        found,
        phases,
        helpful,
        harmful,
        None if documents is None else ListedDocuments.of(documents, options.top),
    )
    summary = as_json(valued)
    written = _write(options.run / "values", valued, summary)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        print("\n\n".join(tables(valued)))
        print(f"\n{written}: written")
    if options.documents is not None and documents is not None:
        _write_file(options.documents, encode_documents(documents))
    if options.schedule is not None:
        _write_schedule(options, valued)
    return 0


def _open_target(run: SavedRun, options: argparse.Namespace) -> tuple[str, Sequence[EvaluatedSet]]:
    """Open the split of the target's shards that the loss is on."""
    name, equals, given = str(options.target).partition("=")
    path = Path(given)
    if not equals:
        evaluation = run.config.evaluation
        named: Mapping[str, Any] = {
            **run.config.data.specific,
            **({} if evaluation is None else evaluation.sets),
        }
        if name not in named:
            known = ", ".join(named) or "none"
            expected = f"a set of the run ({known}) or NAME=SHARDS"
            raise ConfigError(f"--target: expected {expected}, found {name!r}")
        path = named[name].path
    fingerprints = frozenset({run.tokenizer.fingerprint})
    length = run.config.model.sequence_length
    how = SetOptions(length, options.split, options.limit)
    sets, notes = open_shard_sets(name, path, how, fingerprints=fingerprints)
    for note in notes:
        print(f"{options.prog}: {note}", file=sys.stderr)
    splits = {each.split for each in sets}
    wanted = "valid" if "valid" in splits else "train"
    return name, [each for each in sets if each.split == wanted]


def _gradient(
    run: SavedRun,
    sets: Sequence[EvaluatedSet],
    header: TraceHeader,
    options: argparse.Namespace,
    stages: Stages,
) -> tuple[FloatArray, float]:
    quieten(os.environ, rank=0)
    with redirect_stdout(sys.stderr):  # of libraries that are imported
        from megadga.use.devices import choose_device  # noqa: PLC0415
        from megadga.use.target_gradients import load_trained, target_gradient  # noqa: PLC0415

        device = choose_device(options.device)
        model = load_trained(run, device, stages)
        return target_gradient(
            model, sets, header, device=device, batch_size=options.batch_size, stages=stages
        )


def _backwards(files: Sequence[TraceFile], last: int) -> Iterator[tuple[TracedStep, ...]]:
    for step in range(last, 0, -1):
        yield tuple(file.read(step) for file in files)


def _trained_domains(options: argparse.Namespace, header: TraceHeader) -> Sequence[Domain]:
    """Open the domains that the run was trained on, if anything of their documents is asked."""
    if not options.top and options.documents is None:
        return ()
    run = open_recorded(options.run, step=1)
    if run.shards != header.shards:
        raise ShardError(
            f"{run.config.data.domains}: expected the shards that the run was trained on "
            f"({header.shards}), found others ({run.shards})"
        )
    return run.domains


def _listed(
    options: argparse.Namespace, found: SequenceValues, domains: Sequence[Domain]
) -> tuple[list[ListedSequence], list[ListedSequence]]:
    """Return the most helpful sequences and the most harmful ones, with their documents."""
    values = found.values
    order = np.argsort(values, axis=None, kind="stable")
    number = min(options.top, order.size // 2)
    if not number:
        return [], []

    def listed(places: Sequence[int]) -> list[ListedSequence]:
        every: list[ListedSequence] = []
        for place in places:
            step, row = divmod(int(place), values.shape[1])
            index = int(found.domains[step, row])
            window = int(found.windows[step, row])
            documents = documents_of_window(domains[index], window)
            value = float(values[step, row])
            name = domains[index].name
            every.append(ListedSequence(value, step + 1, name, window, documents))
        return every

    return listed(order[::-1][:number].tolist()), listed(order[:number].tolist())


def _write(folder: Path, valued: ValuedRun, summary: Mapping[str, Any]) -> Path:
    """Write all values, and what is printed; return the file of the values."""
    path = folder / f"{valued.target.replace('/', '-')}.npz"
    found = valued.found
    try:
        folder.mkdir(exist_ok=True)
        with atomic_write(path) as file:
            np.savez(
                file,
                values=found.values,
                first_order=found.first_order,
                domains=found.domains,
                windows=found.windows,
            )
        with atomic_write(path.with_suffix(".json")) as file:
            file.write(json.dumps(summary, indent=2).encode())
    except OSError as error:
        raise ConfigError(f"{path}: expected a file to write, found {error.strerror}") from None
    return path


def _write_schedule(options: argparse.Namespace, valued: ValuedRun) -> None:
    weights = scheduled_weights(valued.phases, strength=options.strength)
    stages = [
        {
            "step": int(begin),
            "weights": {
                name: round(float(weight), 6)
                for name, weight in zip(valued.header.domains, row, strict=True)
            },
        }
        for begin, row in zip(valued.phases.begins, weights, strict=True)
    ]
    command = f"megadga value {options.run} --target {options.target}"
    text = f"# By `{command} --strength {options.strength:g}`: the section of a run.\n"
    text += dump({"mixing": {"type": "schedule", "stages": stages}})
    _write_file(options.schedule, text.encode())


def _write_file(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise ConfigError(f"{path}: expected a file to write, found {error.strerror}") from None
    print(f"{path}: written", file=sys.stderr)


VALUE = Command(
    "Say what every trained sequence was worth for a target: by domain, phase and sequence.",
    _add_options,
    _value,
    epilog=_EPILOG,
)
