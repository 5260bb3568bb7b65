"""One thread for models this small: on a busy machine, threads only wait for one another."""

from collections.abc import Generator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
