"""`megadga data convert`: flat files of token ids to shards."""

import argparse
import glob
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from megadga.commands.command import Command
from megadga.console import parse_whole_number, shows_bars
from megadga.data.create import SHARD_TOKENS, natural_key
from megadga.data.flat import FLAT_TYPES, FlatFile, convert_flat, open_flat
from megadga.data.inspection import render_table, summarize
from megadga.errors import ConfigError
from megadga.prepare.tokenizers.loading import load_tokenizer

_EPILOG = """\
examples:
  megadga data convert --input 'olmo/*.npy' --dtype uint16 --tokenizer dolma.json \\
      --output shards/web
  megadga data convert --input nano/train.bin nano/val.bin --valid 'val*' --dtype uint16 \\
      --tokenizer gpt2/ --output shards/web

Flat files hold nothing but ids, one after the other, and EOD after each document, as those of
OLMo, dolma and nanoGPT. A .npy that numpy.save has written has a header, which says the type. The
shards hold the same ids in the same order: files in the natural order of their names (part-2
before part-10), and a document up to every EOD. Files that match --valid become the validation
split. Ids outside the tokenizer's vocabulary, files of another size than a number of ids, and
files without EOD are errors. Look at a document to see that tokenizer and type are right:
  megadga data inspect shards/web --decode 0 --tokenizer dolma.json
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="GLOB", help="flat files of token ids")
    add(
        "--dtype",
        choices=FLAT_TYPES,
        help="type of the ids, little-endian; needed for files without a header of numpy",
    )
    add(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="FILE",
        help="tokenizer that produced the ids",
    )
    add("--eod", metavar="TOKEN", help="token that ends documents (default: the tokenizer's)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the new domain")
    add("--valid", metavar="GLOB", help="pattern of the names of validation files")
    add(
        "--shard-tokens",
        type=lambda text: parse_whole_number(text, least=1),
        default=SHARD_TOKENS,
        metavar="N",
        help="approximate tokens per shard (%(default)s)",
    )


def _divide(
    patterns: list[str], dtype: str | None, valid: str | None
) -> dict[str, list[FlatFile]]:
    """Return the files of each split, opened, in the natural order of their paths.

    Raises:
        ConfigError: If a pattern or a split has no file.
        ShardError: If a file is none of ids.
    """
    paths: set[str] = set()
    for pattern in patterns:
        found = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207
        if not found:
            raise ConfigError(f"{pattern}: expected flat files of token ids, found none")
        paths.update(found)
    known = None if dtype is None else FLAT_TYPES[dtype]
    splits: dict[str, list[FlatFile]] = (
        {"train": []} if valid is None else {"train": [], "valid": []}
    )
    for path in sorted(paths, key=natural_key):
        held_out = valid is not None and fnmatchcase(Path(path).name, valid)
        splits["valid" if held_out else "train"].append(open_flat(Path(path), known))
    for split, files in splits.items():
        if not files:
            found = ", ".join(sorted(paths)[:3])
            raise ConfigError(f"valid: expected a file for {split}, found only {found}")
    return splits


def _convert(args: argparse.Namespace) -> int:
    tokenizer = load_tokenizer(args.tokenizer, eod=args.eod, encodes=False)
    splits = _divide(args.input, args.dtype, args.valid)
    total = sum(f.num_tokens * f.dtype.itemsize for files in splits.values() for f in files)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="converting", disable=not shows_bars()
    ) as bar:
        converted = convert_flat(
            splits,
            args.output,
            tokenizer.identity,
            shard_tokens=args.shard_tokens,
            progress=bar.update,
        )
    print(render_table(summarize(converted.manifest)))
    if converted.without_eod:
        print(f"documents that do not end in EOD: {converted.without_eod:,}")
    return 0


CONVERT = Command(
    "Turn flat files of token ids (OLMo, dolma, nanoGPT) into the shards of a domain.",
    _add_options,
    _convert,
    epilog=_EPILOG,
)
