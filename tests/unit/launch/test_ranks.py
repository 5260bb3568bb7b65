import pytest

from megadga.errors import ConfigError
from megadga.launch.ranks import (
    RankEnvironment,
    check_visible_devices,
    rank_for_messages,
    read_deadline_s,
    read_ranks,
)

MASTER = {"MASTER_ADDR": "node-0", "MASTER_PORT": "4711"}
TORCH = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", **MASTER}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "8",
}
PMI = {"PMI_RANK": "5", "MPI_LOCALRANKID": "1", "PMI_SIZE": "8"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "8",
}
LAUNCHED = {
    "environment": TORCH,
    "torchrun": {**TORCH, "TORCHELASTIC_RUN_ID": "x"},
    "deepspeed": {**TORCH, "CROSS_RANK": "1"},
    "openmpi": OPENMPI,
    "pmi": PMI,
    "slurm": SLURM,
}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_every_launcher_says_who_this_rank_is(launcher):
    found = read_ranks({**LAUNCHED[launcher], **MASTER})
    assert found == RankEnvironment(5, 1, 8, "node-0", 4711, launcher)
    assert found.variables() == {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", **MASTER}


def test_without_a_launcher_a_process_is_alone():
    alone = RankEnvironment(0, 0, 1, "127.0.0.1", 0, "none")
    assert read_ranks({}) == alone
    # A batch script is no rank, although the job that it belongs to has many.
    assert read_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", **MASTER}) == alone


def test_ranks_of_a_launcher_within_another_are_those_of_the_inner_one():
    outer = {**SLURM, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert read_ranks({**outer, **TORCH}).rank == 5
    assert read_ranks({**outer, **TORCH}).world_size == 8


def test_slurm_says_more_than_its_own_pmi():
    assert read_ranks({**SLURM, **MASTER, "PMI_RANK": "5", "PMI_SIZE": "8"}).launcher == "slurm"
    with pytest.raises(ConfigError, match="MPI_LOCALRANKID: expected a whole number"):
        read_ranks({"PMI_RANK": "5", "PMI_SIZE": "8", **MASTER})


def test_hydra_under_slurm_says_more_than_the_step_that_started_it():
    found = read_ranks({**SLURM, "SLURM_PROCID": "0", **PMI, **MASTER})
    assert (found.launcher, found.rank) == ("pmi", 5)


@pytest.mark.parametrize(
    "one_machine",
    [
        {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8"},
        {**PMI, "MPI_LOCALNRANKS": "8"},
        {**SLURM, "SLURM_STEP_NUM_NODES": "1"},
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_ranks_of_one_machine_need_no_address(one_machine):
    found = read_ranks(one_machine)
    assert (found.master_address, found.master_port) == ("127.0.0.1", 29500)


@pytest.mark.parametrize("launcher", ["openmpi", "pmi", "slurm", "environment"])
def test_ranks_of_several_machines_need_an_address(launcher):
    variables = {k: v for k, v in LAUNCHED[launcher].items() if k != "MASTER_ADDR"}
    with pytest.raises(ConfigError, match="MASTER_ADDR: expected the address"):
        read_ranks(variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "8"}, "RANK: expected a rank below WORLD_SIZE=8, found 8"),
        ({"RANK": "-1"}, "RANK: expected a whole number from 0, found '-1'"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK: expected a whole number from 0, found 'one'"),
        ({"MASTER_PORT": "70000"}, r"MASTER_PORT: expected a port in \[0, 65535\], found 70000"),
    ],
)
def test_variables_that_make_no_sense_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        read_ranks({**TORCH, **change})


def test_a_missing_variable_is_named():
    with pytest.raises(
        ConfigError, match="WORLD_SIZE: expected a whole number from 0, found noth"
    ):
        read_ranks({"RANK": "0", "LOCAL_RANK": "0"})


def test_other_ranks_than_the_launcher_was_asked_for_are_refused():
    assert read_ranks({**TORCH, "MEGADGA_RANKS": "8"}).world_size == 8
    with pytest.raises(
        ConfigError, match=r"MEGADGA_RANKS: expected 4 ranks, found 8 \(WORLD_SIZE"
    ):
        read_ranks({**TORCH, "MEGADGA_RANKS": "4"})
    with pytest.raises(
        ConfigError, match=r"expected 4 ranks, found 1 \(no variable of a launcher"
    ):
        read_ranks({"MEGADGA_RANKS": "4"})


@pytest.mark.parametrize(("launcher", "rank"), [("openmpi", 5), ("pmi", 5), ("slurm", 5)])
def test_messages_name_the_rank_whatever_is_missing(launcher, rank):
    assert rank_for_messages(LAUNCHED[launcher]) == rank
    assert rank_for_messages({}) == 0
    assert rank_for_messages({"RANK": "none"}) == 0


def test_a_deadline_is_a_number_of_seconds():
    assert read_deadline_s({}) == 1800.0
    assert read_deadline_s({"MEGADGA_DEADLINE_S": "2.5"}) == 2.5
    for text in ("0", "-1", "inf", "nan", "soon", ""):
        with pytest.raises(ConfigError, match="MEGADGA_DEADLINE_S: expected a number of seconds"):
            read_deadline_s({"MEGADGA_DEADLINE_S": text})


def test_a_rank_has_the_device_of_its_number():
    check_visible_devices(3, 4, {})


@pytest.mark.parametrize(
    ("environment", "hidden_by"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, r"\(CUDA_VISIBLE_DEVICES=1\)"),
        ({}, r"\(no variable hides any\)"),
    ],
)
def test_a_rank_that_sees_too_few_devices_is_refused(environment, hidden_by):
    with pytest.raises(ConfigError, match=f"LOCAL_RANK: .* found 1 visible to rank 1 {hidden_by}"):
        check_visible_devices(1, 1, environment)
