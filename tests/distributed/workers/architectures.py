"""Measures alignments on more of transformers' architectures, and says how far off they are."""

import json
import sys
from pathlib import Path

import torch

from megadga.train.ranks import destroy_process_group
from tests.distributed.workers import exactness
from tests.support.engines import init_ranks
from tests.support.probe_cases import more_architecture_cases


def main(output: str, folder: str, family: str) -> None:
    init_ranks()
    cases = more_architecture_cases(family)
    results = [found for case in cases for found in exactness.results_of(Path(folder), case)]
    if torch.distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(results))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
