"""Trains a run whose data are revised at given steps, writes what it is fed, and may be killed."""

import hashlib
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from megadga.config.loading import load_config
from megadga.data.append import append_shards
from megadga.errors import ShardError
from megadga.plugin import Batch, Metrics
from megadga.train.assembly import open_run
from megadga.train.loop import Run, train

LISTED = "- {{name: {0}, path: {1}}}\n"
DOMAINS = {
    "a": "shards/domains/a",
    "b": "shards/domains/b",
    "c": "shards/domains/c",
    "late": "more/late",
}
REVISIONS = {8: ("a", "b", "c", "late"), 12: ("a", "b", "c", "late"), 16: ("a", "b", "late")}
"""Steps before which `data.revisions` is written anew, and what it lists."""
GROWS = 12
"""Step before which the domain ``b`` grows."""


def main(config: str, killed_in: str) -> None:
    """Train until the end, or until this process kills itself in a step."""
    with open_run(load_config(Path(config))) as run:
        _watch(run, int(killed_in))
        train(run)


def _watch(run: Run, killed_in: int) -> None:
    step = run.trainer.step

    def watched(batch: Batch) -> Metrics:
        if batch.step == killed_in:
            os.kill(os.getpid(), signal.SIGKILL)
        if batch.step == GROWS:
            with suppress(ShardError):  # it has grown before this process was started
                append_shards(Path("shards/domains/b"), Path("more/b"))
        if (listed := REVISIONS.get(batch.step)) is not None:
            text = "".join(LISTED.format(name, DOMAINS[name]) for name in listed)
            more = "entering: {late: 0.4}\ngroups: {first: [a, c, late]}\n"
            Path("live.yaml").write_text(f"domains:\n{text}{more}")
        _write(run, batch)
        return step(batch)

    run.trainer.step = watched  # pyright: ignore[reportAttributeAccessIssue]


def _write(run: Run, batch: Batch) -> None:
    """Append the windows of a batch: domain, index, and digest of the tokens."""
    names, indices = run.mixture.names, batch.indices
    tokens = batch.tokens.numpy().reshape(indices.domains.size, -1)
    fed = [
        (names[domain], sequence, hashlib.sha256(row.tobytes()).hexdigest())
        for domain, sequence, row in zip(
            indices.domains.ravel().tolist(),
            indices.sequences.ravel().tolist(),
            tokens,
            strict=True,
        )
    ]
    weights = dict(zip(names, run.mixture.weights.tolist(), strict=True))
    record = {"step": batch.step, "fed": fed, "weights": weights}
    with Path(f"fed-{indices.rows.min()}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
