"""`megadga generate`: text that a model continues a prompt with."""

import argparse
import sys
from functools import partial

from megadga.commands.command import Command
from megadga.commands.model import MODEL, add_model_options, load_model, named_model
from megadga.console import count, non_negative_int
from megadga.errors import ConfigError
from megadga.prepare.progress import ProgressBars

_EPILOG = f"""\
MODEL is one of

{MODEL}
examples:
  megadga generate runs/example --prompt 'The theorem says'
  megadga generate models/example --prompt - --temperature 0 --max-tokens 64 < prompt.txt
  megadga generate models/example --num 3 --temperature 0.8 --top-p 0.95 --seed 7

The prompt begins a document. Text is printed as it comes, without the prompt, until the model ends
the document, or --max-tokens, or as many tokens as the model reads. Temperature 0 always takes the
most likely token. The same seed gives the same text on the same machine; each of --num texts is
drawn with the next seed.
"""


def _number(text: str, *, least: float, most: float, excluded: float | None = None) -> float:
    """Parse an option in a range of numbers."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most or number == excluded:
        above = f"above {excluded:g}" if excluded is not None else f"from {least:g}"
        raise argparse.ArgumentTypeError(
            f"expected a number {above} to {most:g}, found {text[:80]!r}"
        )
    return number


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--prompt",
        default="",
        metavar="TEXT",
        help="text to continue; -: standard input without its last line break (default: none)",
    )
    add(
        "--max-tokens",
        type=count,
        default=256,
        metavar="N",
        help="maximum number of tokens of a text (%(default)s)",
    )
    add(
        "--temperature",
        type=partial(_number, least=0.0, most=100.0),
        default=1.0,
        metavar="T",
        help="above 1 more diverse, below 1 less, 0 the most likely token (%(default)s)",
    )
    add(
        "--top-p",
        type=partial(_number, least=0.0, most=1.0, excluded=0.0),
        default=1.0,
        metavar="P",
        help="draw from the most likely tokens whose probabilities add up to P (%(default)s)",
    )
    add("--seed", type=non_negative_int, default=0, metavar="N", help="of the draws (%(default)s)")
    add("--num", type=count, default=1, metavar="N", help="number of texts (%(default)s)")
    add_model_options(parser)


def _generate(options: argparse.Namespace) -> int:
    if options.num > 1 and options.temperature == 0.0:
        raise ConfigError("--num: expected 1 at temperature 0, where all are equal, found more")
    found = named_model(options)
    text = options.prompt
    if text == "-":
        text = sys.stdin.read().removesuffix("\n")
    with ProgressBars() as bars:
        model = load_model(options, found, bars)
    from megadga.use.generating import Decoding, encode_prompt, generate  # noqa: PLC0415

    prompt = encode_prompt(model, text)
    decoding = Decoding(options.max_tokens, options.temperature, options.top_p, options.seed)
    for number in range(options.num):
        if options.num > 1:
            print(f"--- {number + 1} of {options.num}, seed {options.seed + number}")
        generated = generate(
            model, prompt, decoding, number=number, write=partial(print, end="", flush=True)
        )
        print(flush=True)
        if not generated.ended and len(generated.tokens) < options.max_tokens:
            limit = (
                f"{len(generated.tokens):,} tokens: the model reads {model.positions:,} at once"
            )
            print(f"{options.prog}: stopped after {limit}", file=sys.stderr)
    return 0


GENERATE = Command("Continue a text with a model.", _add_options, _generate, epilog=_EPILOG)
