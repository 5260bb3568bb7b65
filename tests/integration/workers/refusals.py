"""Calls the command line once for each set of overrides, in one process."""

import contextlib
import io
import json
import sys
from pathlib import Path

from megadga.cli import main as megadga


def attempt(config: str, overrides: list[str]) -> tuple[int, str]:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        options = [f"--set={override}" for override in overrides]
        code = megadga(["train", config, *options])
    return code, errors.getvalue()


def main() -> None:
    output, config, cases = sys.argv[1:]
    found = {name: attempt(config, case) for name, case in json.loads(cases).items()}
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
