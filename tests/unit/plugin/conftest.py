"""A process group of one rank, and domains that record what is read of them."""

from collections.abc import Generator

import pytest
import torch.distributed as dist

from megadga.data.folder import open_domains
from tests.support.streams import counting_domain
from tests.unit.plugin.test_batches import Watched

SEQUENCE_LENGTH = 4


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Generator[dist.ProcessGroup]:
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.fixture
def domains(tmp_path):
    for index in range(3):
        counting_domain(tmp_path / f"d{index}", [401], start=1000 * index, shard_tokens=500)
    opened = open_domains(tmp_path, split="train", sequence_length=SEQUENCE_LENGTH)
    return [Watched(domain) for domain in opened]
