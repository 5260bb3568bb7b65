"""How long ranks wait for each other, in groups of whoever's making. Knows torch's registry."""

from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d


def limit_waiting(deadline: timedelta) -> None:
    """Give every process group that there is a deadline, DeepSpeed's own among them.

    DeepSpeed makes groups without one, and those get torch's default and not the one that the
    first group was formed with. Call it again when more have been made.

    Args:
        deadline: After which a collective fails if ranks are missing; above 0.
    """
    for group in distributed_c10d._world.pg_map:
        if dist.get_rank(group) >= 0:  # else this process is not in it
            distributed_c10d._set_pg_timeout(deadline, group)
