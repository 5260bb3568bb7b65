"""`megadga export`: a run's model as a Hugging Face folder."""

import argparse
import os
import sys
from pathlib import Path

from megadga.commands.command import Command
from megadga.console import parse_step
from megadga.errors import ConfigError
from megadga.launch.quiet import quieten
from megadga.prepare.extras import import_extra
from megadga.prepare.progress import ProgressBars
from megadga.run_folder import CONFIG_FILE

_EPILOG = """\
examples:
  megadga export runs/example models/example
  megadga export runs/example models/example-4000 --step 4000 --dtype bf16
  megadga export runs/example models/example --tokenizer web.model --max-shard-size 2GB

RUN is the output folder of a run of any ZeRO stage and number of ranks, finished or in training.
OUT is a new folder that transformers loads, and what reads its folders: lm-eval, vLLM, llama.cpp:

  model.safetensors      weights, in several files with an index above --max-shard-size
  config.json, generation_config.json
  tokenizer.json, tokenizer_config.json, special_tokens_map.json; of sentencepiece tokenizer.model
  README.md              model card: data, mixture, losses, configuration

The tokenizer is the one that `megadga data build` keeps with the run's shards; of other shards,
say where its file is. Its encodings are compared with those that the model was trained on.

The checkpoint's files are verified, then read by memory mapping: memory is needed for one file of
weights, and no GPU. OUT appears when it is complete; after an interruption, run the same command.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's output folder")
    add("output", type=Path, metavar="OUT", help="the new folder; must not exist, or be empty")
    add(
        "--step",
        type=parse_step,
        metavar="N",
        help="optimizer step of the checkpoint, or best: the one with the lowest validation loss, "
        "of a run with checkpoint.keep_best (default: the latest)",
    )
    add(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="type of the weights; fp32 keeps the bits of the optimizer's weights (%(default)s)",
    )
    add(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="largest file of weights, as 500MB or 5GB; also the memory needed (%(default)s)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="the file that the shards were built with (default: the copy kept with them)",
    )
    group.add_argument(
        "--no-tokenizer", action="store_true", help="export the model without its tokenizer"
    )


def _export(options: argparse.Namespace) -> int:
    if not (path := options.run / CONFIG_FILE).is_file():  # before torch is imported
        raise ConfigError(f"{options.run}: expected the output folder of a run, found no {path}")
    quieten(os.environ, rank=0)
    import_extra("transformers", extra="hf")
    from megadga.export import ExportOptions, export_run  # noqa: PLC0415

    with ProgressBars() as bars:
        exported = export_run(
            options.run,
            options.output,
            ExportOptions(
                step=options.step,
                dtype=options.dtype,
                max_shard_size=options.max_shard_size,
                tokenizer=options.tokenizer,
                with_tokenizer=not options.no_tokenizer,
            ),
            stages=bars,
        )
    for warning in exported.warnings:
        print(f"{options.prog}: {warning}", file=sys.stderr)
    size = sum(exported.files.values())
    print(
        f"{exported.folder}: step {exported.step:,}, {exported.num_parameters:,} parameters in "
        f"{options.dtype}, {len(exported.files)} files, {size / 1e6:,.1f} MB"
    )
    return 0


EXPORT = Command(
    "Write a run's model as a Hugging Face folder.",
    _add_options,
    _export,
    epilog=_EPILOG,
    continues=True,
)
