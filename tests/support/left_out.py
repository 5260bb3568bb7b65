"""Small runs in float64 in which sequences can be left out of steps, and what they trace."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from megadga.arrays import FloatArray, IntArray
from megadga.probes.sequence_gradients import Projection, SequenceGradients
from megadga.run_folder.trace import TracedStep
from megadga.value.recursion import SequenceValues, sequence_values

VOCABULARY = 12
SEQUENCE_LENGTH = 8
NUM_DOMAINS = 3
BETAS, EPSILON = (0.9, 0.999), 1e-8


class SmallTransformer(nn.Module):
    """One block of attention and a layer, behind norms: all that a trace knows, and no more."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.first_norm = nn.RMSNorm(width)
        self.attended = nn.Linear(width, 3 * width)
        self.second_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens[:, :-1])
        query, key, value = self.attended(self.first_norm(h)).chunk(3, dim=-1)
        scores = query @ key.transpose(1, 2) / math.sqrt(key.shape[-1])
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        h = h + scores.masked_fill(ahead, -torch.inf).softmax(-1) @ value
        h = h + torch.tanh(self.up(self.second_norm(h)))
        losses = F.cross_entropy(
            self.head(h).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        return losses.view(len(tokens), -1)


def small_transformer() -> nn.Module:
    """The same model each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallTransformer().double()


@dataclass(frozen=True, eq=False)
class Text:
    """Sequences of a run, and of a target that resembles its first domain.

    Attributes:
        batches: Shape ``(T, B, S + 1)``.
        domains: Shape ``(T, B)``.
        target: Shape ``(n, S + 1)``.
    """

    batches: Tensor
    domains: IntArray
    target: Tensor


def write_text(*, num_steps: int, batch_size: int, seed: int = 0) -> Text:
    """Draw sequences of Markov chains, one a domain."""
    rng = np.random.default_rng(seed)
    chains = rng.dirichlet(np.full(VOCABULARY, 0.05), (NUM_DOMAINS, VOCABULARY)).cumsum(-1)

    def draw(domains: IntArray) -> Tensor:
        tokens = [rng.integers(VOCABULARY, size=domains.shape)]
        for _ in range(SEQUENCE_LENGTH):
            drawn = rng.random((*domains.shape, 1)) > chains[domains, tokens[-1]]
            tokens.append(drawn.sum(-1).clip(max=VOCABULARY - 1))
        return torch.from_numpy(np.stack(tokens, axis=-1))

    domains = rng.integers(NUM_DOMAINS, size=(num_steps, batch_size))
    return Text(draw(domains), domains, draw(np.zeros(64, dtype=np.int64)))


class Optimizer:
    """SGD, or AdamW without decay, of one run or of several side by side."""

    def __init__(self, rate: float, *, adam: bool) -> None:
        self.rate, self.adam = rate, adam
        self.moments: list[tuple[Tensor, Tensor]] = []
        self.steps = 0

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights after a step."""
        self.steps += 1
        if not self.adam:
            return [w - self.rate * g for w, g in zip(weights, gradients, strict=True)]
        (a, b), n = BETAS, self.steps
        before = self.moments or [(torch.zeros_like(w),) * 2 for w in weights]
        self.moments = [
            (a * m + (1 - a) * g, b * v + (1 - b) * g**2)
            for (m, v), g in zip(before, gradients, strict=True)
        ]
        return [
            w - self.rate * m / (1 - a**n) / ((v / (1 - b**n)).sqrt() + EPSILON)
            for w, (m, v) in zip(weights, self.moments, strict=True)
        ]

    def rates(self, num_parameters: int) -> FloatArray:
        """Return what gradients were multiplied by in the step, by parameter, for a trace."""
        if not self.adam:
            return np.full(num_parameters, self.rate)
        means = np.array([float(v.mean()) for _, v in self.moments])
        return self.rate / (np.sqrt(means / (1 - BETAS[1] ** self.steps)) + EPSILON)


@dataclass(frozen=True, eq=False)
class TracedTraining:
    """A run that was traced, and can be trained again without a sequence.

    Attributes:
        build: Makes the model, in float64.
        text: What it is trained on.
        rate: Learning rate.
        adam: Whether by AdamW; else by SGD.
        steps: The trace.
        target: Projected gradient of the target's loss at the end.
        sizes: Of each parameter in it.
        loss: The target's at the end.
    """

    build: Callable[[], nn.Module]
    text: Text
    rate: float
    adam: bool
    steps: list[TracedStep]
    target: FloatArray
    sizes: IntArray
    loss: float

    def values(self) -> SequenceValues:
        """What each sequence was worth."""
        backwards = ((step,) for step in reversed(self.steps))
        return sequence_values(self.target, self.sizes, backwards, num_steps=len(self.steps))

    def left_out(self, chosen: Sequence[tuple[int, int]]) -> FloatArray:
        """Return how much higher the target's loss is without a sequence, for each alone.

        All runs are trained side by side, each from the start.

        Args:
            chosen: Step, from 0, and row of each.
        """
        model, optimizer = self.build(), Optimizer(self.rate, adam=self.adam)
        names = [name for name, _ in model.named_parameters()]

        def loss(weights: Sequence[Tensor], tokens: Tensor, kept: Tensor) -> Tensor:
            named = dict(zip(names, weights, strict=True))
            return (torch.func.functional_call(model, named, (tokens,)).mean(1) * kept).mean()

        differentiate: Any = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, 0))
        with torch.no_grad():
            every = [p.expand(len(chosen), *p.shape).clone() for p in model.parameters()]
            for number, batch in enumerate(self.text.batches):
                kept = torch.ones(len(chosen), len(batch), dtype=torch.float64)
                for run, (step, row) in enumerate(chosen):
                    kept[run, row] = float(step != number)
                every = optimizer.step(every, differentiate(every, batch, kept))
            equal = torch.ones(len(self.text.target), dtype=torch.float64)
            ends = [loss(w, self.text.target, equal) for w in zip(*every, strict=True)]
        return torch.stack(ends).numpy() - self.loss


def trace_training(
    build: Callable[[], nn.Module],
    text: Text,
    *,
    rate: float,
    dimension: int | None = None,
    adam: bool = False,
) -> TracedTraining:
    """Train on the mean loss of each batch."""
    model, optimizer = build(), Optimizer(rate, adam=adam)
    parameters = list(model.parameters())
    gradients = SequenceGradients(model, Projection(dimension, seed=3), torch.device("cpu"))
    size, steps = text.batches.shape[1], list[TracedStep]()
    for number, batch in enumerate(text.batches):
        with gradients.collecting(size) as found:
            grads = torch.autograd.grad(model(batch).mean(), parameters)
        with torch.no_grad():
            for parameter, after in zip(
                parameters, optimizer.step(parameters, grads), strict=True
            ):
                parameter.copy_(after)
        rates = optimizer.rates(len(parameters)) / size
        by_sequence = found[0].numpy() * size
        owners, windows = text.domains[number], np.arange(size)
        steps.append(TracedStep(number + 1, 1.0, rates, owners, windows, by_sequence))
    with gradients.collecting(len(text.target)) as found:
        loss = model(text.target).mean()
        loss.backward()
    sizes = np.array([piece.size for piece in gradients.pieces])
    target = found[0].sum(0).numpy()
    return TracedTraining(build, text, rate, adam, steps, target, sizes, loss.item())


def _rank(values: FloatArray) -> IntArray:
    return values.argsort().argsort()


def _print_correlations(rate: float, *, adam: bool) -> None:
    """Print how values and what leaving sequences out costs correlate, and their ranks."""
    text = write_text(num_steps=300, batch_size=8)
    run = trace_training(small_transformer, text, rate=rate, adam=adam)
    chosen = [(step, step % 8) for step in range(2, 300, 5)]
    true, found = run.left_out(chosen), run.values()
    rates = np.full(len(run.sizes), rate / 8)
    as_sgd = replace(run, steps=[replace(step, rates=rates) for step in run.steps])
    rows = {"values": found.values, "first order": found.first_order}
    rows |= {"one rate": as_sgd.values().values} if adam else {}
    print(f"{'AdamW' if adam else 'SGD'}, rate {rate:g}: loss {run.loss:.3f}")
    for name, array in rows.items():
        values = np.array([array[each] for each in chosen])
        late = slice(len(chosen) // 2, None)
        numbers = [
            np.corrcoef(*pair)[0, 1]
            for pair in (
                (values, true),
                (_rank(values), _rank(true)),
                (values[late], true[late]),
                (_rank(values[late]), _rank(true[late])),
            )
        ]
        print(f"  {name:12}", *(f"{number:.2f}" for number in numbers))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for sgd_rate in (0.02, 0.05, 0.2):
        _print_correlations(sgd_rate, adam=False)
    for adam_rate in (0.001, 0.003, 0.01):
        _print_correlations(adam_rate, adam=True)
