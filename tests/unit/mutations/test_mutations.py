"""Whatever is done to what a user can touch, it is read, or refused in lines that can be read."""

import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megadga.check import check
from megadga.config.loading import load_config
from megadga.config.yaml_source import parse
from megadga.data.manifest import manifest_path, read_manifest
from megadga.demo.summary import summarise_run
from megadga.errors import ConfigError, MegadgaError
from megadga.launch.hosts import read_hostfile
from megadga.mixers.basis import Basis, read_basis, write_basis
from megadga.prepare.clustering.clusters import ClusteringRecord, read_record, write_record
from megadga.report.alignments import read_alignments
from megadga.report.records import read_metrics
from megadga.run_folder.checkpoints import latest_checkpoint, load_header, read_header
from megadga.run_folder.markers import RunMarkers, finished_step
from megadga.train.data import open_data
from megadga.train.mixture import make_mixture
from tests.support.mutations import COUNT, keys_of, of_bytes, of_json, of_overrides
from tests.support.runs import DEEPSPEED, RUN, write_reference, write_run
from tests.support.shards import write_sets

LONGEST = 2000
"""Characters of a line."""


def complaint(read: Callable[[], object]) -> str | None:
    """Have something read; return what is wrong with how it was refused, if it was."""
    try:
        read()
    except MegadgaError as error:
        lines = str(error).split("\n")
        if len(lines) > 1 and not isinstance(error, ConfigError):
            return f"several lines: {lines!r:.200}"
        bad = [line for line in lines if not line.isprintable() or not 0 < len(line) <= LONGEST]
        return f"unreadable: {bad[0]!r:.200}" if bad else None
    except Exception as error:  # noqa: BLE001  (whatever it is)
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error!s:.150} in {last.filename}:{last.lineno}"
    return None


def survive(cases: Iterable[tuple[object, Callable[[], object]]]) -> None:
    """Have every case read, and report all kinds of failures at once, each with one case."""
    found: dict[str, str] = {}
    number = 0
    for told, read in cases:
        number += 1
        if (what := complaint(read)) is not None:
            found.setdefault(what, f"{told!r:.300}")
    assert number >= COUNT
    assert not found, "\n".join(f"{what}\n    of {told}" for what, told in found.items())


def survive_in(path: Path, contents: Iterable[bytes], read: Callable[[], object]) -> None:
    """Have a file read with each of some contents; afterwards it has its own again."""
    whole = path.read_bytes()

    def cases() -> Iterator[tuple[object, Callable[[], object]]]:
        for content in contents:
            path.write_bytes(content)
            yield content, read

    try:
        survive(cases())
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("mutations"), num_domains=3)


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def checked(path: Path, *overrides: str) -> None:
    """What `megadga check` does."""
    list(check(load_config(path, overrides)))


def test_yaml(folder):
    path = write_run(folder)
    survive_in(path, of_bytes(path.read_bytes(), seed=1), lambda: checked(path))


def test_yaml_values(folder):
    path = write_run(folder)
    values = parse(RUN, str).values
    survive_in(path, of_json(values, seed=2), lambda: checked(path))


def test_deepspeeds_json(folder):
    path = write_run(folder, scheduler={"type": "WarmupLR", "params": {"warmup_num_steps": 2}})
    settings = folder / "zero.json"
    survive_in(settings, of_bytes(settings.read_bytes(), seed=3), lambda: checked(path))
    survive_in(settings, of_json(json.loads(settings.read_bytes()), seed=4), lambda: checked(path))


def test_overrides(folder):
    path = write_run(folder)
    values = {**parse(RUN, str).values, "deepspeed": DEEPSPEED, "evaluation": {"interval": 5}}
    listed = "data.domains=[{name: a, path: domains/d0}, {name: b, path: domains/d1}]"
    keys = [*keys_of(values), "data.domains.0.path", "data.domains.1.name", "mixing.basis"]
    for before in ((), (listed,)):
        survive(
            (override, partial(checked, path, *before, override))
            for override in of_overrides(keys, seed=5)
        )


def test_manifest(folder):
    path = manifest_path(folder / "domains" / "d1")
    config = load_config(write_run(folder))
    survive_in(path, of_bytes(path.read_bytes(), seed=6), lambda: open_data(config))
    survive_in(path, of_json(json.loads(path.read_bytes()), seed=7), lambda: open_data(config))
    read_manifest(path.parent)


def test_checkpoint_headers(folder, tmp_path):
    checkpoint = write_reference(folder / "reference-h", step=4)
    path = checkpoint / "megadga.json"
    content = path.read_bytes()

    def read() -> None:
        header = load_header(checkpoint)
        read_header(checkpoint, identity={"seed": 17})
        assert isinstance(header.step + header.metrics_length, int)

    survive_in(path, of_bytes(content, seed=8), read)
    survive_in(path, of_json(json.loads(content), seed=9), read)


def test_headers_of_a_reference(folder):
    checkpoint = write_reference(folder / "reference", step=4)
    path = checkpoint / "megadga.json"
    config = load_config(
        write_run(folder), ["mixing={type: doremi, reference: reference, interval: 1}"]
    )
    survive_in(path, of_json(json.loads(path.read_bytes()), seed=10), lambda: open_data(config))


def test_latest(folder):
    checkpoint = write_reference(folder / "reference-l", step=4)
    path = checkpoint.parent / "latest"

    def read() -> None:
        found = latest_checkpoint(checkpoint.parent)
        if found is not None:
            load_header(found)

    survive_in(path, of_bytes(path.read_bytes(), seed=11), read)


def test_done(folder, tmp_path):
    config = load_config(write_run(folder), [f"output={json.dumps(str(tmp_path))}"])
    RunMarkers(config, writes=True).end(10, finished=True)
    assert finished_step(config) == 10
    path = tmp_path / "DONE"
    survive_in(path, of_bytes(path.read_bytes(), seed=12), lambda: finished_step(config))
    survive_in(
        path, of_json(json.loads(path.read_bytes()), seed=13), lambda: finished_step(config)
    )


def records() -> list[dict[str, Any]]:
    """What a run of two specific sets, and one of a single one, write."""
    by_domain = {"d0": 0.5, "d1": 0.25, "d2": 0.25}
    of_both = {"qa": by_domain, "code": by_domain}
    common = {"weights": by_domain, "averaged_weights": by_domain, "epochs": by_domain}
    return [
        {
            "type": "train",
            "step": 1,
            "loss": 3.0,
            "grad_norm": None,
            "sequences_by_domain": {"d0": 4},
            "loss_by_domain": {"d0": 3.0},
        },
        {
            "type": "update",
            "step": 2,
            "alignments": by_domain,
            "standard_errors": by_domain,
            **common,
        },
        {"type": "update", "step": 4, "alignments": by_domain, **common},
        {"type": "update", "step": 6, "target_alignments": of_both, **common},
        {
            "type": "evaluation",
            "step": 4,
            "specific": {"target": 2.0},
            "domains": {},
            "general": 3.0,
        },
    ]


@pytest.mark.parametrize("left_out", [3, 2])
def test_metrics(folder, tmp_path, left_out):
    """Files with one specific set, and with an update of several among the others."""
    path = tmp_path / "metrics.jsonl"
    written = [record for at, record in enumerate(records()) if at != left_out]
    lines = [json.dumps(record).encode() + b"\n" for record in written]
    path.write_bytes(b"".join(lines))
    config = load_config(
        write_run(folder),
        [f"mixing={{type: schedule, replay: {{metrics: {json.dumps(str(path))}}}}}"],
    )
    domains = open_data(config).domains
    readers: list[Callable[[], object]] = [
        lambda: read_alignments(read_metrics(path)),
        lambda: summarise_run(path, "target"),
        lambda: make_mixture(config, domains),
    ]

    def changed() -> Iterator[bytes]:
        """A line in turn with other values."""
        for index, line in enumerate(lines):
            for text in islice(of_json(json.loads(line), seed=14 + index), 75):
                yield b"".join([*lines[:index], text + b"\n", *lines[index + 1 :]])

    for read in readers:
        survive_in(path, of_bytes(path.read_bytes(), seed=19), read)
        survive_in(path, changed(), read)


def test_mean_weights(folder, tmp_path):
    text = b"{type: static, weights: {d0: 0.5, d1: 0.25, d2: 0.25}}"
    path = write_run(folder)
    start = RUN.index("mixing:")
    end = RUN.index("training:")
    before, after = RUN[:start].encode() + b"mixing: ", b"\n" + RUN[end:].encode()
    survive_in(
        path,
        (before + damaged + after for damaged in of_bytes(text, seed=20)),
        lambda: checked(path),
    )


def test_histogram(folder, tmp_path):
    masses = {"d0": 3, "d1": 1.5, "d2": 0}
    path = tmp_path / "histogram.json"
    path.write_text(json.dumps(masses))
    config = load_config(
        write_run(folder), [f"mixing={{type: importance, histogram: {json.dumps(str(path))}}}"]
    )
    domains = open_data(config).domains
    for contents in (of_bytes(path.read_bytes(), seed=21), of_json(masses, seed=22)):
        survive_in(path, contents, lambda: make_mixture(config, domains))


def test_schedule_table(folder, tmp_path):
    path = tmp_path / "schedule.csv"
    path.write_text("step,d0,d1,d2\n0,0.5,0.25,0.25\n5,0.2,0.3,0.5\n")
    config = load_config(
        write_run(folder), [f"mixing={{type: schedule, csv: {json.dumps(str(path))}}}"]
    )
    domains = open_data(config).domains
    survive_in(path, of_bytes(path.read_bytes(), seed=23), lambda: make_mixture(config, domains))


def test_basis(tmp_path):
    path = tmp_path / "basis.npz"
    rows = [np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.3, 0.6])]
    basis = Basis.from_rows(
        rows, names=("qa", "code"), domains=("a", "b", "c"), clustering="cd" * 32
    )
    write_basis(path, basis)
    survive_in(path, of_bytes(path.read_bytes(), seed=24), lambda: read_basis(path))


def test_hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two\nnode-1 slots=8\nnode-2 slots=8\n")
    survive_in(path, of_bytes(path.read_bytes(), seed=25), lambda: read_hostfile(path))


def test_clustering(tmp_path):
    write_record(tmp_path, ClusteringRecord("tfidf", "0" * 64, "", (4, 16), "1" * 64))
    (path,) = tmp_path.iterdir()
    survive_in(path, of_bytes(path.read_bytes(), seed=26), lambda: read_record(tmp_path))
    survive_in(
        path, of_json(json.loads(path.read_bytes()), seed=27), lambda: read_record(tmp_path)
    )
