"""What is judged wrong with hosts, from what they said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megadga.launch.doctor.connection import Reach
from megadga.launch.doctor.diagnosis import Finding, Requirements, findings
from megadga.launch.doctor.gather import ClusterReport, HostReport, NoReport, Software
from megadga.launch.hosts import Host

SOFTWARE = Software({"Python": "3.11.7", "torch": "2.13.0"}, code="a" * 64)
FIT = HostReport(
    host="h1",
    software=SOFTWARE,
    devices=8,
    kind="accelerators",
    folder_error="",
    port_error="",
    master_address="192.0.2.1",
    interface="eth0",
    ops_missing=(),
    op_locks=(),
)
REQUIRED = Requirements(
    hosts=(Host("h1", 8), Host("h2", 8)),
    software=SOFTWARE,
    folder=Path("/shared/runs"),
    port=29500,
    interpreter="/opt/env/bin/python",
    reach="ssh",
)


def second(**changes: Any) -> list[Finding]:
    """Judge two hosts, the second of which says something else."""
    other = replace(FIT, host="h2", **changes)
    return findings(ClusterReport((FIT, other), unseen=()), REQUIRED)


def silent(code: int | None, said: str = "", *, reach: Reach = "ssh") -> str:
    """Judge a second host that does not answer."""
    answers = ClusterReport((FIT, NoReport("h2", code, said)), unseen=())
    (finding,) = findings(answers, replace(REQUIRED, reach=reach))
    assert finding.failed
    return str(finding)


def test_of_fit_hosts_there_is_nothing_to_say() -> None:
    assert second() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"software": Software({"Python": "3.11.7", "torch": "2.12.0"}, "a" * 64)},
            "h2: expected torch 2.13.0 as here, found 2.12.0; install the same environment there",
        ),
        (
            {"software": Software(SOFTWARE.versions, "b" * 64)},
            (
                "h2: expected megadga's code aaaaaaaaaaaa as here, found bbbbbbbbbbbb; bring the "
                "same version of megadga there"
            ),
        ),
        (
            {"devices": 7},
            (
                "h2: expected 8 accelerators for 8 ranks, found 7; lower slots= in the hostfile, "
                "or --accelerators-per-node"
            ),
        ),
        (
            {"folder_error": "permission denied"},
            (
                "h2: expected to write in /shared/runs, found: permission denied; put the run's "
                "output where every host can write"
            ),
        ),
        (
            {"master_address": "", "interface": ""},
            (
                "h2: expected to know the address of h1, found none; mend its /etc/hosts or name "
                "service"
            ),
        ),
        (
            {"master_address": "127.0.1.1", "interface": "lo"},
            (
                "h2: expected h1 to be another machine, found 127.0.1.1; mend its /etc/hosts, "
                "where the name means loopback"
            ),
        ),
        (
            {"interface": ""},
            (
                "h2: expected an interface towards h1, found none that is up; mend its network, "
                "or set GLOO_SOCKET_IFNAME"
            ),
        ),
    ],
)
def test_what_would_fail_is_named_with_its_host_and_remedy(
    changes: dict[str, Any], message: str
) -> None:
    (finding,) = second(**changes)
    assert str(finding) == message
    assert finding.failed


def test_all_that_is_wrong_with_a_host_is_said_at_once() -> None:
    assert len(second(devices=1, folder_error="no space", interface="")) == 3


def test_a_port_in_use_is_named_with_the_host_of_rank_0() -> None:
    first = replace(FIT, port_error="is in use")
    (finding,) = findings(ClusterReport((first, replace(FIT, host="h2")), ()), REQUIRED)
    assert str(finding).startswith("h1: expected port 29500 to be free, found that it is in use;")


def test_the_first_host_may_know_itself_as_loopback() -> None:
    first = replace(FIT, master_address="127.0.1.1", interface="lo")
    assert findings(ClusterReport((first, replace(FIT, host="h2")), ()), REQUIRED) == []


def test_a_folder_whose_files_the_first_host_does_not_see_is_not_shared() -> None:
    (finding,) = findings(ClusterReport((FIT, replace(FIT, host="h2")), unseen=("h2",)), REQUIRED)
    assert str(finding).startswith(
        "h2: expected /shared/runs to be shared, found that h1 does not see what is written there;"
    )


def test_a_compilation_that_is_still_to_come_is_no_failure() -> None:
    (finding,) = second(ops_missing=("cpu_adam",))
    assert finding.what.startswith("DeepSpeed's operator cpu_adam is not compiled yet")
    assert not finding.failed


def test_a_lock_on_an_operator_is_named() -> None:
    (finding,) = second(op_locks=("/ops/cpu_adam/lock",))
    assert str(finding) == (
        "h2: expected no lock on an operator, found /ops/cpu_adam/lock, for which ranks would "
        "wait; remove it, unless something is being compiled now"
    )
    assert finding.failed


def test_a_host_that_ssh_cannot_reach_is_reported_from_one_without_the_interpreter() -> None:
    assert silent(255, "Permission denied (publickey).") == (
        "h2: expected to get in by ssh, found no way: Permission denied (publickey).; "
        "`ssh -o BatchMode=yes h2 true` must work without a password"
    )
    assert silent(127, "sh: 1: exec: not found") == (
        "h2: expected megadga under /opt/env/bin/python, found exit code 127: sh: 1: exec: not "
        "found; install the same environment at the same path there"
    )
    assert silent(None) == "h2: expected an answer, found none in time; is it up?"


def test_255_says_nothing_of_ssh_where_there_is_none() -> None:
    assert silent(255, reach="srun").startswith("h2: expected megadga under ")
