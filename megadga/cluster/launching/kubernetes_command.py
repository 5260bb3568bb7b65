"""The command line of ``launch/k8s``. Knows ``kubectl``, and no manifest's inside."""

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from megadga.cluster.launching.kubernetes import Pods, indexed_job, mpi_job, pytorch_job
from megadga.cluster.launching.options import common_parser, to_request, whole
from megadga.cluster.launching.plan import USER_ERROR
from megadga.cluster.launching.starting import told
from megadga.errors import ConfigError

_KINDS = {"job": indexed_job, "pytorchjob": pytorch_job, "mpijob": mpi_job}
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", re.ASCII)
_NO_ACCELERATOR = "none"


def main(arguments: Sequence[str]) -> int:
    """Run ``launch/k8s``; return the exit code."""
    parser = _parser()
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
    return told(lambda: _apply(manifests))


def _apply(manifests: str) -> int:
    if shutil.which("kubectl") is None:
        raise ConfigError(
            "kubectl: expected it on the search path of this machine, found none; --dry-run "
            "prints the manifests"
        )
    command = ("kubectl", "apply", "--validate=strict", "-f", "-")
    applied = subprocess.run(command, input=manifests, text=True, check=False)  # noqa: S603
    return USER_ERROR if applied.returncode else 0


def _parser() -> argparse.ArgumentParser:
    parser = common_parser(
        "launch/k8s",
        "Train on Kubernetes: a pod a node. CONFIG is a path inside the containers, on a volume "
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
        help=f"of which a pod gets one a rank (nvidia.com/gpu); {_NO_ACCELERATOR}: CPU ranks",
    )
    add("--retries", type=whole, default=10, metavar="N", help="restarts of failed pods (10)")
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
