"""`megadga init`: writes a commented run into a new folder."""

import argparse
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from megadga.commands.command import Command
from megadga.errors import ConfigError

EXAMPLES = Path(__file__).parents[1] / "examples"
"""Example runs, each with its commands in a comment at the top, and their DeepSpeed settings."""
_SHOWN = 5
"""Maximum number of existing files that a message lists."""


def example_names() -> list[str]:
    """Return the names of the example runs, sorted."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def summary_of(example: str) -> str:
    """Return the one-line summary of an example."""
    return _lines(example)[0].removeprefix("# ")


def commands_of(example: str) -> list[str]:
    """Return the shell commands, for the run's folder, that build its shards, check and train."""
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
        help="example to copy (%(default)s)",
    )


def _init(options: argparse.Namespace) -> int:
    """Write the run and print the next commands."""
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
    print("Adapt it to your data; then", *_next_commands(folder, options.example), sep="\n")
    return 0


def _next_commands(folder: Path, example: str) -> Iterator[str]:
    if folder.resolve() != Path.cwd():
        yield f"  cd {shlex.quote(str(folder))}"
    yield from (f"  {line}" for line in commands_of(example))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


INIT = Command(
    "Write an example run into a new folder: a commented run.yaml, and DeepSpeed settings for\n"
    "every ZeRO stage. Existing files are never overwritten.",
    _add_options,
    _init,
    epilog=_epilog(),
)
