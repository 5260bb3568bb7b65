"""A run whose domains enter, grow and leave while it lives, and which is killed in between."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from megadga.data.folder import DomainSource, open_domain
from megadga.data.labels import Label, Labels, write_labels
from megadga.data.manifest import read_manifest
from megadga.report.domains import DomainInfo, read_domain_info
from tests.support.jobs import on_ranks, run_job
from tests.support.runs import write_run
from tests.support.shards import write_domain

S = 8
STEPS = 24
RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 8}
data:
  domains: shards/domains
  revisions: live.yaml
  groups: {first: [a, c]}
  specific: {target: {path: shards/specific}}
mixing:
  type: dga
  preset: paper
  interval: 4
  step_size: 0.001
  probe: {sequences_per_domain: 2, specific_sequences: 2}
training: {steps: 24, global_batch_size: 8, micro_batch_size: 4}
deepspeed: zero.json
evaluation: null
checkpoint: {interval: 5, keep_last: 1}
"""
KILLED_IN = (4, 10, 14, 15, 19)
"""Steps that it dies in, before and after each revision, which a checkpoint follows at once."""


def num_windows(folder: Path) -> int:
    return (read_manifest(folder).num_tokens("train") - 1) // S


def fed_by_step(folder: Path) -> list[dict[str, Any]]:
    """What each step was fed the last time that it was trained, over both ranks."""
    steps: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("fed-*.jsonl")):
        own = {}
        for line in path.read_text().splitlines():
            record = json.loads(line)
            own[record["step"]] = record
        for step, record in own.items():
            merged = steps.setdefault(step, {"weights": record["weights"], "fed": []})
            assert merged["weights"] == record["weights"]  # on every rank
            merged["fed"] += record["fed"]
    assert sorted(steps) == list(range(1, STEPS + 1))
    return [steps[step] for step in sorted(steps)]


def test_nothing_is_fed_twice_in_an_epoch_and_nothing_lost_however_domains_change(tmp_path):
    for index, name in enumerate("abc"):
        write_domain(tmp_path / "shards/domains" / name, seed=index, num_documents=8)
    write_labels(tmp_path / "shards/domains", Labels({"c": Label(("sea", "ship"))}))
    write_domain(tmp_path / "shards/specific", seed=1)
    write_domain(tmp_path / "more/late", seed=5, num_documents=6)
    write_domain(tmp_path / "more/b", seed=6, num_documents=5)
    write_run(tmp_path, RUN)
    before = {name: num_windows(tmp_path / "shards/domains" / name) for name in "abc"}
    worker = "tests.integration.workers.revised_run"

    for step in KILLED_IN:
        killed = run_job(on_ranks(worker, "run.yaml", str(step)), tmp_path)
        assert killed.code != 0, killed.text
        assert f"step {step - 1}/{STEPS}" in killed.text or step == 4, killed.text
    finished = run_job(on_ranks(worker, "run.yaml", "0"), tmp_path)
    assert finished.code == 0, finished.text

    domains = {name: tmp_path / "shards/domains" / name for name in "abc"}
    domains["late"] = tmp_path / "more/late"
    contents = {
        name: _digests(path) for name, path in domains.items()
    }  # of every window, as the folders are now
    assert len(contents["b"]) > before["b"]
    epochs: dict[str, list[int]] = defaultdict(list)
    completed: dict[str, int] = defaultdict(int)
    steps = fed_by_step(tmp_path)
    for step, record in enumerate(steps, start=1):
        # It grew at 12, where a checkpoint was written at once, and died later.
        size = {name: len(each) for name, each in contents.items()}
        if step <= 12:
            size["b"] = before["b"]
        for name, sequence, digest in record["fed"]:
            assert contents[name][sequence] == digest
            assert sequence not in epochs[name], f"step {step}: {name} {sequence} twice"
            epochs[name].append(sequence)
            if len(epochs[name]) == size[name]:
                assert sorted(epochs[name]) == list(range(size[name]))
                epochs[name].clear()
                completed[name] += 1
        assert set(record["weights"]) == (
            set("abc") if step <= 8 else {*"abc", "late"} if step <= 16 else {"a", "b", "late"}
        )
    assert completed["a"] > 0
    assert completed["b"] > 0

    _check_weights(steps)
    events = [
        json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    ]
    revisions = [each for each in events if each.get("event") == "revision"]
    changed = [(r["step"], r["entered"], r["grown"], r["left"]) for r in revisions]
    assert changed == [(8, ["late"], [], []), (12, [], ["b"], []), (16, [], [], ["c"])]
    assert sorted(p.name for p in (tmp_path / "out/revisions").iterdir()) == [
        "0001.yaml",
        "0002.yaml",
        "0003.yaml",
    ]
    # With the label of the domain that left.
    assert read_domain_info(tmp_path / "out") == DomainInfo(
        ("a", "b", "c", "late"), {"c": "sea, ship"}, {"first": ("a", "c", "late")}
    )


def _digests(folder: Path) -> list[str]:
    domain = open_domain(DomainSource(folder.name, folder), split="train", sequence_length=S)
    windows = domain.windows(np.arange(domain.num_sequences))
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in windows]


def _check_weights(steps: list[dict[str, Any]]) -> None:
    """A domain enters with its weight; the others, and those that stay, keep their ratios."""
    entered, left = steps[8]["weights"], steps[16]["weights"]
    assert entered["late"] == 0.4
    assert abs(sum(entered.values()) - 1.0) < 1e-12
    assert abs(sum(left.values()) - 1.0) < 1e-12
