"""Manifests for Kubernetes: an Indexed Job, or a job of Kubeflow's operators. Knows no cluster.

CONFIG and all paths in it are those inside the containers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megadga.cluster.launching.options import Request

_PORT = 29500
_SLACK_S = 15
"""From the end of the time to save until a pod is killed."""

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  (in a container of our own)

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pods:
    """What the pods of a run are made of.

    Attributes:
        name: Of the job; a DNS label of at most 50 characters.
        image: Container image that has megadga.
        namespace: Where it runs; None: the current one.
        claims: PersistentVolumeClaim to the folder where it is mounted.
        variables: Environment of every container: no secrets.
        secrets: Names of Secrets, all of whose keys become variables.
        accelerator: Resource of which a pod gets as many as it has ranks; None: CPU ranks.
        retries: How often pods are started again before the run has failed.
    """

    name: str
    image: str
    namespace: str | None = None
    claims: Mapping[str, str] | None = None
    variables: Mapping[str, str] | None = None
    secrets: tuple[str, ...] = ()
    accelerator: str | None = "nvidia.com/gpu"
    retries: int = 10


def indexed_job(request: Request, pods: Pods) -> list[Manifest]:
    """Return a headless Service, by which pods find the first one, and an Indexed Job."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pods),
        "spec": {
            "clusterIP": "None",
            "selector": {"job-name": pods.name},
            "publishNotReadyAddresses": True,  # pods meet before they are ready
            "ports": [{"name": "master", "port": _PORT}],
        },
    }
    command = _node(
        request,
        node_rank="$(JOB_COMPLETION_INDEX)",  # which the job's controller sets
        master_address=f"{pods.name}-0.{pods.name}",
        master_port=str(_PORT),
    )
    template = _template(request, pods, "megadga", command)
    template["spec"] |= {"subdomain": pods.name, "restartPolicy": "Never"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(pods),
        "spec": {
            "completionMode": "Indexed",
            "completions": request.nodes,
            "parallelism": request.nodes,
            "backoffLimit": pods.retries * request.nodes,  # a failure ends the pods of all nodes
            **_limit(request),
            "podFailurePolicy": {
                "rules": [
                    # 2 is what the user must mend; a drained node is nobody's failure.
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "megadga",
                            "operator": "In",
                            "values": [2],
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": template,
        },
    }
    return [service, job]


def pytorch_job(request: Request, pods: Pods) -> list[Manifest]:
    """Return a PyTorchJob of Kubeflow's training operator, which tells pods about the first."""
    command = _node(
        request,
        node_rank="$(RANK)",
        master_address="$(MASTER_ADDR)",
        master_port="$(MASTER_PORT)",
    )
    template = _template(request, pods, "pytorch", command)
    replicas = {"restartPolicy": "OnFailure", "template": template}
    specs: dict[str, Any] = {"Master": {"replicas": 1, **replicas}}
    if request.nodes > 1:
        specs["Worker"] = {"replicas": request.nodes - 1, **replicas}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(pods),
        "spec": {
            "runPolicy": {
                "backoffLimit": pods.retries,
                "cleanPodPolicy": "None",
                **_limit(request),
            },
            "pytorchReplicaSpecs": specs,
        },
    }
    return [job]


def mpi_job(request: Request, pods: Pods) -> list[Manifest]:
    """Return an MPIJob of Kubeflow's MPI operator, in whose launcher ``launch/mpi`` is at work."""
    command = [
        *("python3", "-m", "megadga.cluster.launching.mpi", "--hostfile", "/etc/mpi/hostfile"),
        *_common(request),
    ]
    launcher = _template(request, pods, "launcher", command, accelerators=False)
    worker = _template(request, pods, "worker", None)  # the operator has it run sshd
    job = {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": _metadata(pods),
        "spec": {
            "slotsPerWorker": request.accelerators_per_node,
            "mpiImplementation": "OpenMPI",
            "runPolicy": {
                "backoffLimit": pods.retries,
                "cleanPodPolicy": "Running",
                **_limit(request),
            },
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "restartPolicy": "OnFailure", "template": launcher},
                "Worker": {"replicas": request.nodes, "template": worker},
            },
        },
    }
    return [job]


def _metadata(pods: Pods) -> Manifest:
    place = {} if pods.namespace is None else {"namespace": pods.namespace}
    return {"name": pods.name, **place, "labels": {"app.kubernetes.io/name": "megadga"}}


def _limit(request: Request) -> Manifest:
    return {} if request.time_s is None else {"activeDeadlineSeconds": request.time_s}


def _node(request: Request, *, node_rank: str, master_address: str, master_port: str) -> list[str]:
    return [
        *("python3", "-m", "megadga.cluster.launching.node"),
        f"--node-rank={node_rank}",
        f"--master-address={master_address}",
        f"--master-port={master_port}",
        *_common(request),
    ]


def _common(request: Request) -> list[str]:
    """Return the user's options as a container's arguments, where ``$$`` stands for ``$``."""
    options = [
        f"--nodes={request.nodes}",
        f"--accelerators-per-node={request.accelerators_per_node}",
        f"--time-to-save={request.save_s}",
        *(f"--set={override}" for override in request.overrides),
        str(request.config),
    ]
    return [option.replace("$", "$$") for option in options]


def _template(
    request: Request,
    pods: Pods,
    container: str,
    command: Sequence[str] | None,
    *,
    accelerators: bool = True,
) -> Manifest:
    claims = dict(pods.claims or {})
    mounts = [
        {"name": f"claim-{index}", "mountPath": path} for index, path in enumerate(claims.values())
    ]
    volumes: list[Manifest] = [
        {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}}
        for index, claim in enumerate(claims)
    ]
    amount = {pods.accelerator: request.accelerators_per_node}
    resources = {"resources": {"limits": amount}} if accelerators and pods.accelerator else {}
    variables = [{"name": name, "value": v} for name, v in (pods.variables or {}).items()]
    sources = [{"secretRef": {"name": name}} for name in pods.secrets]
    return {
        "spec": {
            "terminationGracePeriodSeconds": request.save_s + _SLACK_S,
            "containers": [
                {
                    "name": container,
                    "image": pods.image,
                    **({} if command is None else {"command": list(command)}),
                    **({"env": variables} if variables else {}),
                    **({"envFrom": sources} if sources else {}),
                    **resources,
                    # Ranks of a machine talk through it, and the default is 64 MB.
                    "volumeMounts": [
                        *mounts,
                        {"name": "shared-memory", "mountPath": _SHARED_MEMORY},
                    ],
                }
            ],
            "volumes": [*volumes, {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
        }
    }
