"""`megadga init`: writes a commented run into a new folder."""

import argparse
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from megadga.commands.command import Command
from megadga.errors import ConfigError

EXAMPLES = Path(__file__).parents[1] / "examples"
"""Runs, each with its commands in the comment at its top, and DeepSpeed's settings for them."""
_SHOWN = 5
"""Names of what is in a folder already that a message lists."""


def example_names() -> list[str]:
    """Return the names of the runs that there are, sorted."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def summary_of(example: str) -> str:
    """Return what an example is, in one line."""
    return _lines(example)[0].removeprefix("# ")


def commands_of(example: str) -> list[str]:
    """Return the lines, for a shell in the run's folder, that make its shards, check and train."""
    marker = "#   "
    return [line.removeprefix(marker) for line in _lines(example) if line.startswith(marker)]


def _lines(example: str) -> list[str]:
    return (EXAMPLES / f"{example}.yaml").read_text(encoding="utf-8").splitlines()


def _epilog() -> str:
    lines = (f"  {name:<11}{summary_of(name)}" for name in example_names())
    return "\n".join(("examples:", *lines))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="new or empty; gets run.yaml and deepspeed/")
    add(
        "--example",
        choices=example_names(),
        default="dga",
        metavar="NAME",
        help="what run.yaml is (%(default)s)",
    )


def _init(options: argparse.Namespace) -> int:
    """Write the run, and print what to type next."""
    folder: Path = options.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if found := sorted(path.name for path in folder.iterdir()):
            raise ConfigError(f"{folder}: expected a new or empty folder, found {_listed(found)}")
        shutil.copyfile(EXAMPLES / f"{options.example}.yaml", folder / "run.yaml")
        shutil.copytree(EXAMPLES / "deepspeed", folder / "deepspeed")
    except OSError as error:
        raise ConfigError(
            f"{folder}: expected a folder to write to, found: {error.strerror or error}"
        ) from None
    print(f"{folder / 'run.yaml'}: {summary_of(options.example)}")
    print("Change in it what differs; then", *_next_commands(folder, options.example), sep="\n")
    return 0


def _next_commands(folder: Path, example: str) -> Iterator[str]:
    if folder.resolve() != Path.cwd():
        yield f"  cd {shlex.quote(str(folder))}"
    yield from (f"  {line}" for line in commands_of(example))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


INIT = Command(
    "Write a run into a new folder: run.yaml, commented, and DeepSpeed's settings for every\n"
    "stage of ZeRO. Nothing that is there is overwritten.",
    _add_options,
    _init,
    epilog=_epilog(),
)
