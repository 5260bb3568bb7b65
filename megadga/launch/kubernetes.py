"""Kubernetes manifests (Indexed Job, Kubeflow operators), and their launcher."""

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megadga.console import USER_ERROR, non_negative_int
from megadga.errors import ConfigError
from megadga.launch.options import LaunchRequest, common_parser, to_request
from megadga.launch.plan import exit_code_of

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


def indexed_job(request: LaunchRequest, pods: Pods) -> list[Manifest]:
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


def pytorch_job(request: LaunchRequest, pods: Pods) -> list[Manifest]:
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


def mpi_job(request: LaunchRequest, pods: Pods) -> list[Manifest]:
    """Return an MPIJob of Kubeflow's MPI operator; its launcher runs ``megadga launch mpi``."""
    command = [
        *("python3", "-m", "megadga.launch.mpi", "--hostfile", "/etc/mpi/hostfile"),
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


def _limit(request: LaunchRequest) -> Manifest:
    return {} if request.time_s is None else {"activeDeadlineSeconds": request.time_s}


def _node(
    request: LaunchRequest, *, node_rank: str, master_address: str, master_port: str
) -> list[str]:
    return [
        *("python3", "-m", "megadga.launch.local"),
        f"--node-rank={node_rank}",
        f"--master-address={master_address}",
        f"--master-port={master_port}",
        *_common(request),
    ]


def _common(request: LaunchRequest) -> list[str]:
    """Return the user's options as a container's arguments, where ``$$`` stands for ``$``."""
    options = [
        f"--nodes={request.nodes}",
        f"--accelerators-per-node={request.accelerators_per_node}",
        f"--time-to-save={request.save_s}",
        *(f"--set={override}" for override in request.overrides),
        *request.allow(),
        str(request.config),
    ]
    return [option.replace("$", "$$") for option in options]


def _template(
    request: LaunchRequest,
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


_KINDS = {"job": indexed_job, "pytorchjob": pytorch_job, "mpijob": mpi_job}


_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", re.ASCII)


_NO_ACCELERATOR = "none"


def main(arguments: Sequence[str], *, prog: str = "megadga launch k8s") -> int:
    """Run ``megadga launch k8s``; return the exit code."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    request = to_request(parser, options)
    if request.accelerators_per_node is None:
        parser.error(
            "argument --accelerators-per-node: expected the ranks of a pod, found nothing"
        )
    resource = options.accelerator_resource
    pods = Pods(
        name=options.name or _name_after(options.config),
        image=options.image,
        namespace=options.namespace,
        claims=dict(options.claims),
        variables=dict(options.variables),
        secrets=tuple(options.secrets),
        accelerator=None if resource == _NO_ACCELERATOR else resource,
        retries=options.retries,
    )
    # Through JSON, in which nothing is shared: YAML would point from one template to another.
    rendered = json.loads(json.dumps(_KINDS[options.kind](request, pods)))
    manifests = yaml.safe_dump_all(rendered, sort_keys=False)
    if request.dry_run:
        print(manifests, end="")
        return 0
    return exit_code_of(lambda: _apply(manifests))


def _apply(manifests: str) -> int:
    if shutil.which("kubectl") is None:
        raise ConfigError(
            "kubectl: expected it on the search path of this machine, found none; --dry-run "
            "prints the manifests"
        )
    command = ("kubectl", "apply", "--validate=strict", "-f", "-")
    applied = subprocess.run(command, input=manifests, text=True, check=False)  # noqa: S603
    return USER_ERROR if applied.returncode else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = common_parser(
        prog,
        "Train on Kubernetes: a pod per node. CONFIG is a path inside the containers, on a volume "
        "that all pods share. Prints the manifests with --dry-run, else applies them.",
        restarts=False,
        sees_output=False,
    )
    add = parser.add_argument
    add("--image", required=True, metavar="IMAGE", help="container image that has megadga")
    add(
        "--kind",
        choices=sorted(_KINDS),
        default="job",
        help="an Indexed Job with a headless Service (job, needs no operator), or what Kubeflow's "
        "operators take",
    )
    add("--name", type=_label, metavar="NAME", help="of the job; after CONFIG")
    add("--namespace", metavar="NAME", help="the current one")
    add(
        "--claim",
        dest="claims",
        action="append",
        default=[],
        type=_claim,
        metavar="NAME:FOLDER",
        help="mount a PersistentVolumeClaim; repeatable",
    )
    add(
        "--env",
        dest="variables",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="set a variable, which everybody who sees the job can read; repeatable",
    )
    add(
        "--secret",
        dest="secrets",
        action="append",
        default=[],
        metavar="NAME",
        help="set all variables of a Secret; repeatable",
    )
    add(
        "--accelerator-resource",
        default="nvidia.com/gpu",
        metavar="NAME",
        help=f"of which a pod gets one per rank (nvidia.com/gpu); {_NO_ACCELERATOR}: CPU ranks",
    )
    add(
        "--retries",
        type=non_negative_int,
        default=10,
        metavar="N",
        help="restarts of failed pods (10)",
    )
    return parser


def _name_after(config: Path) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", config.stem.lower()).strip("-")[:36].strip("-")
    return f"megadga-{plain}" if plain else "megadga"


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"expected at most 50 of a-z, 0-9 and -, a letter first, found {text!r}"
        )
    return text


def _claim(text: str) -> tuple[str, str]:
    name, _, folder = text.partition(":")
    if not name or not folder.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected NAME:/FOLDER, found {text!r}")
    return name, folder


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value
