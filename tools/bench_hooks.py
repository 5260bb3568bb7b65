"""Count what a probe's hooks add to a forward and a backward pass of a model, a module.

Operators of torch and the bytes that they read and write, which no other work on the machine
changes, and processor time, of passes with hooks and without in turns. Along a direction of low
rank weight gradients are formed, as in flight; along a whole one they are not. With few tokens the
time is that of the host.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from megadga.config.llama_shapes import PRESETS
from megadga.console import run_program, tool_parser
from megadga.data.targets import PADDING
from megadga.model.llama import Llama
from megadga.probes.gradients import Direction, Factors, ResidentDirection
from megadga.probes.hooks import hooked, modules_with_parameters
from megadga.probes.layouts import NO_LAYOUTS
from megadga.probes.learning_layouts import learn_layouts

EPILOG = """\
example:
  python tools/bench_hooks.py --preset 8m --sequences 8 --sequence-length 128
  python tools/bench_hooks.py --preset 8m --sequences 4 --sequence-length 4 --rounds 40 --passes 2
"""
VOCABULARY = 1024
CPU = torch.device("cpu")


class Operators(TorchDispatchMode):
    """Counts operators, and bytes of their arguments and results where those are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count it."""
        found = func(*args, **(kwargs or {}))
        self.calls["all"] += 1
        results = _tensors(found)
        if results and not func.is_view and func.name() not in _RESHAPING:
            self.calls["more than views"] += 1
            touched = [*_tensors(args), *results]
            self.num_bytes += sum(each.numel() * each.element_size() for each in touched)
        return found


_RESHAPING = ("aten::_unsafe_view", "aten::lift_fresh")


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Passes:
    """What is measured: a forward and a backward pass.

    Attributes:
        model: The model.
        tokens: A micro-batch, shape ``(b, S + 1)``.
        rounds: Turns of passes without and with hooks.
        passes: Of a turn.
    """

    model: Llama
    tokens: Tensor
    rounds: int
    passes: int

    def once(self) -> None:
        """Run them once."""
        self.model(self.tokens).mean().backward()

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the processor time of a pass, in the mean over a turn."""
        start = time.process_time()
        for _ in range(self.passes):
            run()
        return (time.process_time() - start) / self.passes


@contextmanager
def differentiated(model: nn.Module, *, weights: bool) -> Generator[None]:
    """Form gradients of the weights, or of the embedding's output alone."""
    model.requires_grad_(weights)
    hook = model.get_submodule("embedding").register_forward_hook(
        lambda _, __, output: None if weights else output.requires_grad_()
    )
    try:
        yield
    finally:
        hook.remove()


def show(name: str, passes: Passes, direction: Direction) -> str:
    """Return a line about what hooks along a direction add."""
    model, size = passes.model, len(passes.tokens)
    layouts = NO_LAYOUTS
    modules = modules_with_parameters(model)
    if size > 1:
        pair = passes.tokens[:2]
        layouts = learn_layouts(modules, pair, run=model, padding=PADDING)

    with hooked(model, direction, layouts) as sequence_hooks:

        def measured() -> None:
            sums = sequence_hooks.begin(size, CPU)
            passes.once()
            sums.total()

        def plain() -> None:
            with sequence_hooks.paused():
                passes.once()

        turns = [(passes.seconds(plain), passes.seconds(measured)) for _ in range(passes.rounds)]
        with Operators() as without:
            plain()
        with Operators() as with_hooks:
            measured()
    fastest, hooked_s = (min(each) for each in zip(*turns, strict=True))
    number = len(modules)
    added = {key: with_hooks.calls[key] - without.calls[key] for key in without.calls}
    moved = (with_hooks.num_bytes - without.num_bytes) / number / 1e6
    return (
        f"{name:>8}: {added['more than views'] / number:.1f} operators a module beside "
        f"{without.calls['more than views'] / number:.1f} ({added['all'] / number:.1f} and "
        f"{without.calls['all'] / number:.1f} with views); {moved:.2f} MB beside "
        f"{without.num_bytes / number / 1e6:.2f}; {(hooked_s - fastest) / number * 1e6:.0f} us of "
        f"processor time beside {fastest / number * 1e6:.0f}, {hooked_s / fastest:.3f} times"
    )


def directions(model: nn.Module, rank: int) -> tuple[Direction, Direction]:
    """Return a random direction of low rank and a whole one."""
    qr = cast("Callable[[Tensor], tuple[Tensor, Tensor]]", torch.linalg.qr)
    whole = {each: torch.randn_like(each) for each in model.parameters()}
    factored = {
        each: Factors(qr(torch.randn(each.shape[0], rank))[0], torch.randn(each.shape[1], rank))
        if each.ndim == 2
        else piece
        for each, piece in whole.items()
    }
    return ResidentDirection(factored), ResidentDirection(whole)


def main() -> None:
    """Parse the command line and print a line for each direction."""
    parser = tool_parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="8m", metavar="NAME", help="model (%(default)s)")
    add("--sequences", type=int, default=8, metavar="B", help="of a pass (%(default)s)")
    add("--sequence-length", type=int, default=128, metavar="S", help="(%(default)s)")
    add("--rank", type=int, default=16, metavar="R", help="of the factors (%(default)s)")
    add("--rounds", type=int, default=5, metavar="N", help="turns (%(default)s)")
    add("--passes", type=int, default=1, metavar="N", help="of a turn (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    length = args.sequence_length
    model = Llama(PRESETS[args.preset], vocabulary_size=VOCABULARY, sequence_length=length, seed=0)
    tokens = torch.randint(VOCABULARY, (args.sequences, length + 1))
    passes = Passes(model, tokens, args.rounds, args.passes)
    low_rank, whole = directions(model, args.rank)
    with differentiated(model, weights=True):
        print(show(f"rank {args.rank}", passes, low_rank))
    with differentiated(model, weights=False):
        print(show("whole", passes, whole))


if __name__ == "__main__":
    run_program(main)
