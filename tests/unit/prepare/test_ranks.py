import pytest

from megadga.errors import ConfigError
from megadga.prepare.workers import mpi_world_size, open_workers


def test_workers_under_mpirun_are_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with (
        pytest.raises(ConfigError, match=r"workers: expected none under mpirun, .* found 2"),
        open_workers(2),
    ):
        pass


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "8"}, 8),
        ({"SLURM_NTASKS": "8"}, 1),  # also set where srun starts one program on one node
    ],
)
def test_ranks_are_counted_as_mpirun_says(environment, ranks):
    assert mpi_world_size(environment) == ranks
