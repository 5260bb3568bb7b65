"""Collects checkpoints of real engines, writes them after more training, and loads them."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from megadga.probes.weights_only import WeightsOnlyEngine
from megadga.train.ranks import destroy_process_group
from megadga.train.writing import CheckpointWriter
from tests.support.checkpoints import differing
from tests.support.engines import fingerprint, full_parameters, init_ranks
from tests.support.probe_cases import ProbeCase
from tests.support.trainings import Training, start_training

TAG = "step-00000002"


def main(output: str, folder: str, checkpoints: str, *kinds: str) -> None:
    init_ranks()
    report = {
        kind: results_of(Path(folder), ProbeCase(*kind.split()), Path(checkpoints) / kind)
        for kind in kinds
    }
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(report))
    destroy_process_group()


def results_of(folder: Path, case: ProbeCase, checkpoints: Path) -> dict[str, Any]:
    """Save in both ways after two steps, train a third, and train it again after loading."""
    training = start_training(folder, case)
    for _ in range(2):
        training.train_step()
    before = fingerprint(full_parameters(training.engine))
    engine = WeightsOnlyEngine(training.engine)
    state = {"plugin": training.batches.state_dict()}
    at_once = collect(engine, state, copies=False)
    copied = collect(engine, state, copies=True)
    write(checkpoints / "at_once", at_once)
    training.train_step()
    after = fingerprint(full_parameters(training.engine))
    write(checkpoints / "later", copied)
    write(checkpoints / "too_late", at_once)
    torch.distributed.barrier()
    differences = {
        name: len(differing(checkpoints / "at_once" / TAG, checkpoints / name / TAG))
        for name in ("later", "too_late")
    }
    scripts = sorted(path.name for path in (checkpoints / "later").glob("*.py"))
    sizes = sum(file.num_bytes for file in at_once), written_bytes(checkpoints / "at_once")
    training.engine.destroy()
    return {
        "trained": [before, after],
        "resumed": resumed(folder, case, checkpoints / "later"),
        "differences": differences,
        "scripts": scripts,
        "sizes": sizes,
    }


def collect(engine: WeightsOnlyEngine, state: dict[str, Any], *, copies: bool) -> Any:
    scratch = Path(tempfile.mkdtemp())
    files = engine.collect_checkpoint(TAG, state, scratch=scratch, copies=copies)
    shutil.rmtree(scratch)
    return files


def write(folder: Path, files: Any) -> None:
    CheckpointWriter(folder, files).write()


def written_bytes(folder: Path) -> int:
    """Bytes of this rank's files."""
    rank = torch.distributed.get_rank()
    own = {0: "*", 1: "*rank_1_mp*"}[rank]
    paths = [path for path in folder.rglob(own) if path.is_file()]
    others = "rank_1_mp" if rank == 0 else "nothing"
    return sum(path.stat().st_size for path in paths if others not in path.name)


def resumed(folder: Path, case: ProbeCase, checkpoint: Path) -> list[str]:
    """Load a checkpoint in a new engine, and train the third step."""
    training: Training = start_training(folder, case)
    _, state = WeightsOnlyEngine(training.engine).load_checkpoint(str(checkpoint), TAG)
    training.batches.load_state_dict(state["plugin"])
    loaded = fingerprint(full_parameters(training.engine))
    training.train_step()
    trained = fingerprint(full_parameters(training.engine))
    training.engine.destroy()
    return [loaded, trained]


if __name__ == "__main__":
    main(*sys.argv[1:])
