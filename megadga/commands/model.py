"""Options of commands that load a trained model, and how they load it."""

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from megadga.config.models import HuggingFaceModel
from megadga.console import parse_step, shows_bars
from megadga.launch.quiet import quieten
from megadga.prepare.extras import import_extra
from megadga.prepare.progress import Stages
from megadga.train.saved import SavedRun
from megadga.use.sources import ModelName, find_model

if TYPE_CHECKING:
    from megadga.use.loading import CausalLm

MODEL = """\
  runs/example         the output folder of a run: its latest checkpoint, or that of --step
  models/example       a folder of Hugging Face's transformers, as `megadga export` writes it
  owner/model          a model on Hugging Face's hub
"""
"""What a model is named by, for the end of ``--help``."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the model, and what says where it is loaded to and in which precision."""
    parser.add_argument(
        "model", metavar="MODEL", help="a run, a folder, a model on the hub: below"
    )
    group = parser.add_argument_group("which model, and where")
    add = group.add_argument
    add(
        "--step",
        type=parse_step,
        metavar="N",
        help="optimizer step of a run's checkpoint, or best, as checkpoint.keep_best defines it "
        "(default: the latest)",
    )
    add("--revision", metavar="NAME", help="branch, tag or commit of a model on the hub")
    add(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="the file that shards were written with (default: of a run the copy kept with its "
        "shards, of others their own tokenizer)",
    )
    add(
        "--device",
        metavar="NAME",
        help="as cpu or cuda:1 (default: an accelerator if there is one)",
    )
    add(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="type of the weights and of the arithmetic (default: what a run was trained in, what "
        "others are stored in)",
    )
    add(
        "--trust-remote-code",
        action="store_true",
        default=None,
        help="run Python code that comes with a model of the hub; it can do anything that you can",
    )


def named_model(options: argparse.Namespace) -> SavedRun | HuggingFaceModel:
    """Return what the options name; neither torch is imported nor weights are read.

    Raises:
        ConfigError: If there is none.
        ResumeError: If a run has no such checkpoint.
    """
    trusted = options.trust_remote_code is True
    return find_model(ModelName(options.model, options.step, options.revision, trusted))


def load_model(
    options: argparse.Namespace, found: SavedRun | HuggingFaceModel, stages: Stages
) -> "CausalLm":
    """Load the model that the options name.

    Raises:
        ConfigError: If it cannot be loaded, or transformers is not installed.
        ResumeError: If a checkpoint is damaged.
    """
    quieten(os.environ, rank=0)
    # DeepSpeed logs to what is standard output while it is imported; that is for results.
    with redirect_stdout(sys.stderr):
        logging = import_extra("transformers.utils.logging", extra="hf")
        from megadga.use.devices import choose_device  # noqa: PLC0415
        from megadga.use.loading import (  # noqa: PLC0415
            Placement,
            load_causal_lm,
        )

        if not shows_bars():
            logging.disable_progress_bar()
        return load_causal_lm(
            options.model,
            found,
            Placement(choose_device(options.device), options.dtype),
            tokenizer=options.tokenizer,
            stages=stages,
        )
