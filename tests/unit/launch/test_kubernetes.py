import copy
from typing import Any

import kubernetes_validate as validator
import pytest
import yaml

from megadga.launch.kubernetes import Pods, indexed_job, main, mpi_job, pytorch_job
from tests.unit.launch.hosts import CONFIG, OVERRIDES, request

PODS = Pods(
    name="run",
    image="registry/megadga:1",
    namespace="team",
    claims={"data": "/data", "runs": "/runs"},
    variables={"NCCL_DEBUG": "INFO"},
    secrets=("hf",),
    retries=3,
)
KINDS = {"job": indexed_job, "pytorchjob": pytorch_job, "mpijob": mpi_job}
CUSTOM = {
    "PyTorchJob": ("pytorchReplicaSpecs", {"runPolicy", "pytorchReplicaSpecs"}),
    "MPIJob": (
        "mpiReplicaSpecs",
        {"slotsPerWorker", "mpiImplementation", "runPolicy", "mpiReplicaSpecs"},
    ),
}
"""Of a custom resource: where its pod templates are, and what else its specification has."""
RUN_POLICY = {"backoffLimit", "cleanPodPolicy", "activeDeadlineSeconds"}


def templates(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        role: replicas["template"]
        for role, replicas in manifest["spec"][CUSTOM[manifest["kind"]][0]].items()
    }


def validate(manifest: dict[str, Any]) -> None:
    """Refuse what Kubernetes would, and what it would pass over in silence."""
    version = validator.latest_version()
    if manifest["kind"] not in CUSTOM:
        validator.validate(manifest, version, strict=True)
        return
    assert set(manifest["spec"]) <= CUSTOM[manifest["kind"]][1]
    assert set(manifest["spec"]["runPolicy"]) <= RUN_POLICY
    for role, template in templates(manifest).items():
        metadata = {"name": role.lower(), **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        validator.validate(pod, version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pods", [PODS, Pods(name="a", image="i", accelerator=None)])
@pytest.mark.parametrize("time_s", [None, 600])
def test_manifests_are_what_kubernetes_takes(kind, pods, time_s):
    for manifest in KINDS[kind](request(time_s=time_s), pods):
        validate(manifest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "path", [("containers", 0, "imagee"), ("volumess",), ("containers", 0, "volumeMounts", 0, "x")]
)
def test_a_typo_in_a_template_is_caught(kind, path):
    manifest = copy.deepcopy(KINDS[kind](request(), PODS)[-1])
    template = (
        manifest["spec"]["template"]
        if kind == "job"
        else templates(manifest)["Worker" if kind == "mpijob" else "Master"]
    )
    place: Any = template["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "typo"
    with pytest.raises(validator.ValidationError):
        validate(manifest)


def test_pods_find_the_first_one_by_the_service():
    service, job = indexed_job(request(), PODS)
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == "run"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        *(
            "python3",
            "-m",
            "megadga.launch.local",
            "--node-rank=$(JOB_COMPLETION_INDEX)",
        ),
        *("--master-address=run-0.run", "--master-port=29500"),
        *("--nodes=2", "--accelerators-per-node=2", "--time-to-save=120"),
        *(f"--set={override}".replace("$", "$$") for override in OVERRIDES),
        str(CONFIG).replace("$", "$$"),
    ]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}


def test_pods_are_told_what_may_change():
    _, job = indexed_job(request(allowed=("mixing.floor",)), PODS)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--allow=mixing.floor" in container["command"]


def test_a_pod_has_time_to_save():
    for build in KINDS.values():
        manifest = build(request(save_s=300), PODS)[-1]
        found = (
            [manifest["spec"]["template"]]
            if build is indexed_job
            else templates(manifest).values()
        )
        assert {t["spec"]["terminationGracePeriodSeconds"] for t in found} == {315}


def test_the_launcher_of_an_mpijob_has_no_accelerators():
    (job,) = mpi_job(request(), PODS)
    launcher, worker = (
        templates(job)[role]["spec"]["containers"][0] for role in ("Launcher", "Worker")
    )
    assert launcher["command"][2:5] == [
        "megadga.launch.mpi",
        "--hostfile",
        "/etc/mpi/hostfile",
    ]
    assert "resources" not in launcher
    assert worker["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert "command" not in worker


COMMAND = ["/data/My Run.yaml", "--image=i", "--accelerators-per-node=2", "--dry-run"]


def test_manifests_are_named_after_the_run_and_repeat_nothing_by_reference(capsys):
    assert main([*COMMAND, "--kind=pytorchjob", "--nodes=3", "--claim=data:/data"]) == 0
    text = capsys.readouterr().out
    assert "&id" not in text
    (job,) = yaml.safe_load_all(text)
    assert job["metadata"]["name"] == "megadga-my-run"
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--name=Run", "expected at most 50 of a-z"),
        ("--claim=data", "expected NAME:/FOLDER, found 'data'"),
        ("--env=1A=b", "expected NAME=VALUE, found '1A=b'"),
    ],
)
def test_an_option_that_kubernetes_would_refuse_is_refused_here(option, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, option])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
