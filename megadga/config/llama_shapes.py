"""Named sizes of decoders, and their numbers of parameters."""

from collections.abc import Iterator
from dataclasses import dataclass


class ShapeError(ValueError):
    """A size that no decoder can have.

    Args:
        name: Of the field.
        expected: What it has to be.
        found: What it is.
    """

    def __init__(self, name: str, expected: str, found: float) -> None:
        super().__init__(f"{name}: expected {expected}, found {found}")
        self.name = name
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class LlamaShape:
    """The size of a Llama-shaped decoder, except for its vocabulary.

    Args:
        num_layers: Blocks of attention and feed-forward, at least 1.
        hidden_size: Features of the residual stream, a multiple of ``num_heads``.
        num_heads: Query heads; each has ``hidden_size / num_heads`` features, an even number.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        intermediate_size: Hidden features of the SwiGLU feed-forward, at least 1.
        tied_embeddings: Whether the output matrix is the embedding.
        rope_theta: Base of the rotary frequencies, above 1.

    Raises:
        ShapeError: If a size is out of its range or does not divide.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    tied_embeddings: bool
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if problem := next(self._problems(), None):
            raise ShapeError(*problem)

    def _problems(self) -> Iterator[tuple[str, str, float]]:
        """Yield each size that is wrong: its name, what was expected, and what was found."""
        for name in (
            "num_layers",
            "hidden_size",
            "num_heads",
            "num_kv_heads",
            "intermediate_size",
        ):
            if getattr(self, name) < 1:
                yield name, "at least 1", getattr(self, name)
        if self.hidden_size % (2 * self.num_heads):
            expected = f"a multiple of 2 * num_heads = {2 * self.num_heads}"
            yield "hidden_size", expected, self.hidden_size
        if self.num_heads % self.num_kv_heads:
            yield "num_kv_heads", f"a divisor of num_heads = {self.num_heads}", self.num_kv_heads
        if self.rope_theta <= 1.0:
            yield "rope_theta", "more than 1", self.rope_theta

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    def matrices(self, vocabulary_size: int) -> list[tuple[int, int]]:
        """Return the shapes of all matrices, tied ones once."""
        kv_width = self.num_kv_heads * self.head_width
        attention = [(self.hidden_size, self.hidden_size)] * 2 + [(kv_width, self.hidden_size)] * 2
        feed_forward = [(self.intermediate_size, self.hidden_size)] * 2 + [
            (self.hidden_size, self.intermediate_size)
        ]
        embeddings = [(vocabulary_size, self.hidden_size)] * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * (attention + feed_forward)

    @property
    def norm_lengths(self) -> list[int]:
        """Lengths of the norms' weights: two of each layer, and one behind the last."""
        return [self.hidden_size] * (2 * self.num_layers + 1)

    def num_parameters(self, vocabulary_size: int) -> int:
        """Return the number of parameters, with tied matrices counted once."""
        matrices = sum(rows * columns for rows, columns in self.matrices(vocabulary_size))
        return matrices + sum(self.norm_lengths)


PRESETS: dict[str, LlamaShape] = {
    # 20 k parameters beside the embedding: to try a configuration, a launcher or a cluster.
    "nano": LlamaShape(
        num_layers=2,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=64,
        tied_embeddings=True,
    ),
    # 1.8 M parameters with 8,192 tokens: a demonstration on two CPU cores.
    "tiny": LlamaShape(
        num_layers=4,
        hidden_size=128,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=384,
        tied_embeddings=True,
    ),
    # 7.7 and 29.9 M parameters with 8,192 tokens: to see how results change with size.
    "8m": LlamaShape(
        num_layers=7,
        hidden_size=256,
        num_heads=4,
        num_kv_heads=4,
        intermediate_size=704,
        tied_embeddings=True,
    ),
    "30m": LlamaShape(
        num_layers=8,
        hidden_size=512,
        num_heads=8,
        num_kv_heads=8,
        intermediate_size=1408,
        tied_embeddings=True,
    ),
    # GPT-3 small, medium and large with SwiGLU at 8/3 of the width: the sizes of the DGA paper.
    "125m": LlamaShape(
        num_layers=12,
        hidden_size=768,
        num_heads=12,
        num_kv_heads=12,
        intermediate_size=2048,
        tied_embeddings=True,
    ),
    "350m": LlamaShape(
        num_layers=24,
        hidden_size=1024,
        num_heads=16,
        num_kv_heads=16,
        intermediate_size=2816,
        tied_embeddings=True,
    ),
    "750m": LlamaShape(
        num_layers=24,
        hidden_size=1536,
        num_heads=16,
        num_kv_heads=16,
        intermediate_size=4096,
        tied_embeddings=True,
    ),
    # TinyLlama 1.1B and Llama 2 7B.
    "1b": LlamaShape(
        num_layers=22,
        hidden_size=2048,
        num_heads=32,
        num_kv_heads=4,
        intermediate_size=5632,
        tied_embeddings=False,
    ),
    "7b": LlamaShape(
        num_layers=32,
        hidden_size=4096,
        num_heads=32,
        num_kv_heads=32,
        intermediate_size=11008,
        tied_embeddings=False,
    ),
}
