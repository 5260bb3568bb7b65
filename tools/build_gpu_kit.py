"""Collect what a bare machine with CUDA lacks to check megadga, into one folder.

That machine has Python 3.12, torch and the usual packages (numpy, transformers, sentencepiece,
tqdm, psutil, pyyaml ...), but neither DeepSpeed nor a network. The folder gets

    wheels/        DeepSpeed without compiled operators, what it and megadga import, megadga itself
    shards/        a few million tokens of text found on this machine, in domains, and a target
    gpu_check.py   the check, with the packages it consists of
    kit.json       commit and versions

What is there already is not made again, but for megadga and the check, which are always new.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.demo.folder import DemoFolder, collect_documents, train_demo_tokenizer, write_shards

TOOLS = Path(__file__).absolute().parent
ROOT = TOOLS.parent
LARGEST = 60 * 2**20  # bytes
PACKAGES = (
    "hjson",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "tabulate",
)
"""What DeepSpeed and megadga import, and that machine lacks or may have in older versions."""
_PLATFORM = (
    *("--only-binary=:all:", "--python-version=3.12", "--implementation=cp"),
    *("--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64"),
    "--platform=manylinux2014_x86_64",
)
EPILOG = """\
example:
  python tools/build_gpu_kit.py --output .gpu-kit

Takes a minute or two, and a network for the wheels (--no-wheels: only the shards and the check,
for a machine with the project's environment). `tools/gpu_check.py --help` says how to use it.
"""


def pip(*arguments: str) -> None:
    """Run pip with the versions that the tests run with."""
    constraints = str(ROOT / "constraints.txt")
    subprocess.run(  # noqa: S603  (our own arguments)
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        env={**os.environ, "DS_BUILD_OPS": "0", "PIP_CONSTRAINT": constraints},
        check=True,
    )


def collect_wheels(folder: Path) -> None:
    """Build DeepSpeed's and megadga's wheels, and fetch the others."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("megadga-*.whl"):
        old.unlink()
    build = ("wheel", "--no-deps", "--wheel-dir", str(folder))
    pip(*build, str(ROOT))
    if not list(folder.glob("deepspeed-*.whl")):
        pip(*build, "--no-build-isolation", "deepspeed")  # its build asks this torch for a version
    if any(not list(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in PACKAGES):
        pip("download", "--no-deps", *_PLATFORM, "--dest", str(folder), *PACKAGES)


def collect_shards(folder: Path) -> None:
    """Make shards of text found on this machine, as the demo does."""
    if folder.exists():
        return
    with tempfile.TemporaryDirectory() as name:
        demo = DemoFolder(Path(name) / "demo")
        demo.root.mkdir()
        collect_documents(demo, print)
        write_shards(demo, train_demo_tokenizer(demo, print), print)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(demo.root / "shards", partial)
        partial.rename(folder)


def copy_check(folder: Path) -> None:
    """Copy the check and the packages it consists of."""
    shutil.copy(TOOLS / "gpu_check.py", folder)
    for package in ("gpu_checks", "alignment_bench"):
        shutil.rmtree(folder / package, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOOLS / package, folder / package, ignore=ignored)


def describe(folder: Path) -> int:
    """Write what the kit is made of; return its size in bytes."""
    git = ("git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+")
    commit = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(path.name for path in folder.glob("wheels/*.whl"))
    kit = {"commit": commit.stdout.strip() or "unknown", "wheels": wheels}
    (folder / "kit.json").write_text(json.dumps(kit, indent=1) + "\n")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Parse the command line and fill the folder."""
    parser = tool_parser(__doc__, EPILOG)
    parser.add_argument("--output", type=Path, default=ROOT / ".gpu-kit", metavar="FOLDER")
    parser.add_argument("--no-wheels", action="store_true", help="shards and the check alone")
    args = parser.parse_args()
    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    if not args.no_wheels:
        collect_wheels(folder / "wheels")
    collect_shards(folder / "shards")
    copy_check(folder)
    size = describe(folder)
    if size > LARGEST:
        raise SystemExit(f"{folder}: expected at most {LARGEST:,} bytes, found {size:,}")
    print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_program(main)
