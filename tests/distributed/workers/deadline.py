"""Has a rank wait for one that does not come, in every group that there is."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from megadga.build.ranks import process_group
from megadga.zero.deadline import limit_waiting
from tests.support.engines import build_engine, settings
from tests.support.probed_models import small


def wait_in(group):
    """Return what became of a sum that the other rank takes no part in, and after how long."""
    started = time.monotonic()
    try:
        dist.all_reduce(torch.ones(1), group=group)
    except RuntimeError as error:
        return type(error).__name__, time.monotonic() - started
    return "finished", time.monotonic() - started


def main() -> None:
    output, deadline_s = Path(sys.argv[1]), sys.argv[2]
    os.environ["MEGADGA_DEADLINE_S"] = deadline_s
    with process_group() as deadline:
        build_engine(small, settings("1", "fp32"))
        dist.new_group([0, 1])
        limit_waiting(deadline)
        dist.barrier()
        groups = [g for g in distributed_c10d._world.pg_map if dist.get_world_size(g) == 2]
        if dist.get_rank() == 0:
            found = [wait_in(group) for group in groups]
            output.write_text(json.dumps(found))
        else:
            time.sleep(float(deadline_s) * (len(groups) + 2))
        sys.stdout.flush()
        os._exit(0)  # the groups are beyond leaving in good order


if __name__ == "__main__":
    main()
