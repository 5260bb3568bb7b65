from megadga.launch.hosts import Host
from megadga.launch.mpi import mpi_plan
from tests.unit.launch.hosts import (
    ENVIRONMENT,
    FOLDER,
    HOSTS,
    OUTPUT,
    PLACE,
    TOLD,
    request,
)


def words(hosts, *, cores):
    (command,) = mpi_plan(request(), hosts, PLACE, mpirun="/mpi/mpirun", cores=cores).commands
    return command.arguments


def test_mpirun_is_reported_hosts_folder_and_variables_by_name():
    plan = mpi_plan(request(), HOSTS, PLACE, mpirun="/mpi/mpirun", cores=2)
    (command,) = plan.commands
    names = (*TOLD, "MASTER_ADDR", "MASTER_PORT")
    assert command.arguments == (
        *("/mpi/mpirun", "-n", "4", "--host", "node-a:2,node-b:2", "--bind-to", "none"),
        *("--wdir", str(FOLDER)),
        *(word for name in names for word in ("-x", name)),
        *request().train(),
    )
    told = {**TOLD, "MASTER_ADDR": "node-a", "MASTER_PORT": "20001"}
    keep_alive = {name: v for name, v in command.environment.items() if "keepalive" in name}
    assert command.environment == {**ENVIRONMENT, **told, **keep_alive}
    assert keep_alive["PRTE_MCA_oob_tcp_keepalive_time"] == "10"
    assert plan.stop_file == OUTPUT / ".stop-launch-1"


def test_values_are_not_in_the_command_line():
    assert not [word for word in words(HOSTS, cores=2) if "hush" in word or word == TOLD["GLOO_X"]]


def test_more_ranks_than_cores_are_allowed_when_asked_for():
    assert "--oversubscribe" not in words(HOSTS, cores=2)
    assert "--oversubscribe" in words((Host("localhost", 3),), cores=2)


def test_on_this_machine_ranks_meet_over_loopback():
    plan = mpi_plan(request(), (Host("localhost", 2),), PLACE, mpirun="mpirun", cores=2)
    assert plan.commands[0].environment["MASTER_ADDR"] == "127.0.0.1"
