"""Has a rank fail alone, and one wait for another that does not come, in every group there is."""

import contextlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from megadga.config.loading import load_config
from megadga.probes.collective import ProcessGroupCollective
from megadga.probes.engine import limit_waiting
from megadga.run_folder.markers import RunFinishedError, RunMarkers
from megadga.train.assembly import open_run
from megadga.train.ranks import OtherRankError, on_first_rank, process_group
from tests.support.engines import build_engine, settings
from tests.support.probed_models import small
from tests.support.runs import write_run
from tests.support.shards import write_sets


def wait_in(group):
    """Return what became of a sum that the other rank takes no part in, and after how long."""
    started = time.monotonic()
    try:
        dist.all_reduce(torch.ones(1), group=group)
    except RuntimeError as error:
        return type(error).__name__, time.monotonic() - started
    return "finished", time.monotonic() - started


def fail_alone(ranks):
    """Return what every rank raises when the first one cannot do its work, and after how long."""

    def work():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    started = time.monotonic()
    try:
        on_first_rank(ranks, work)
    except (OSError, OtherRankError) as error:
        raised = f"{type(error).__name__}: {error}"
    else:
        raised = "nothing"
    return ranks.objects((raised, time.monotonic() - started))


def start_finished(folder, ranks):
    """Start a run whose end the first rank alone can see; return what becomes of it everywhere.

    The output folder has one path, and what lies there is another folder for every rank.
    """
    run = folder / "run.yaml"
    if ranks.rank == 0:
        folder.mkdir()
        write_sets(folder, num_domains=2)
        write_run(folder)
    dist.barrier()
    own = folder / f"rank-{ranks.rank}"
    own.mkdir()
    with contextlib.chdir(own):
        config = load_config(run, ["output=/proc/self/cwd/out"])
        config.output.mkdir()
        RunMarkers(config, writes=ranks.rank == 0).end(10, finished=True)
        try:
            with open_run(config):
                outcome = "started"
        except RunFinishedError as finished:
            outcome = str(finished)
    return ranks.objects(outcome)


def main() -> None:
    output, deadline_s = Path(sys.argv[1]), sys.argv[2]
    os.environ["MEGADGA_DEADLINE_S"] = deadline_s
    with process_group() as deadline:
        ranks = ProcessGroupCollective(None, torch.device("cpu"))
        finished = start_finished(output.parent / "finished", ranks)
        build_engine(small, settings("1", "fp32"))
        dist.new_group([0, 1])
        limit_waiting(deadline)
        dist.barrier()
        groups = [g for g in distributed_c10d._world.pg_map if dist.get_world_size(g) == 2]
        failed = fail_alone(ranks)
        shared = ranks.objects(on_first_rank(ranks, lambda: ranks.rank))
        if dist.get_rank() == 0:
            with ThreadPoolExecutor(len(groups)) as pool:  # one deadline's time for all of them
                waits = list(pool.map(wait_in, groups))
            found = {"waits": waits, "failed": failed, "shared": shared, "finished": finished}
            output.write_text(json.dumps(found))
        else:
            until = time.monotonic() + 3.0 * float(deadline_s)
            while not output.exists() and time.monotonic() < until:
                time.sleep(0.05)
        sys.stdout.flush()
        os._exit(0)  # the groups are beyond leaving in good order


if __name__ == "__main__":
    main()
