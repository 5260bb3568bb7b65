"""Named sizes of decoders, and their numbers of parameters."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LlamaShape:
    """The size of a Llama-shaped decoder, except for its vocabulary.

    Args:
        num_layers: Blocks of attention and feed-forward, at least 1.
        width: Features of the residual stream, a multiple of ``num_heads``.
        num_heads: Query heads; each has ``width / num_heads`` features, an even number.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        mlp_width: Hidden features of the SwiGLU feed-forward, at least 1.
        tied_embeddings: Whether the output matrix is the embedding.
        rope_base: Base of the rotary frequencies, above 1.

    Raises:
        ValueError: If a size is out of its range or does not divide.
    """

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    tied_embeddings: bool
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "width", "num_heads", "num_kv_heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width: expected a multiple of 2 * num_heads = {2 * self.num_heads}, "
                f"found {self.width}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads: expected a divisor of num_heads = {self.num_heads}, "
                f"found {self.num_kv_heads}"
            )
        if self.rope_base <= 1.0:
            raise ValueError(f"rope_base: expected more than 1, found {self.rope_base}")

    @property
    def head_width(self) -> int:
        """Features of one attention head."""
        return self.width // self.num_heads

    def matrices(self, vocabulary_size: int) -> list[tuple[int, int]]:
        """Return the shapes of all matrices, tied ones once."""
        kv_width = self.num_kv_heads * self.head_width
        attention = [(self.width, self.width)] * 2 + [(kv_width, self.width)] * 2
        feed_forward = [(self.mlp_width, self.width)] * 2 + [(self.width, self.mlp_width)]
        embeddings = [(vocabulary_size, self.width)] * (1 if self.tied_embeddings else 2)
        return embeddings + self.num_layers * (attention + feed_forward)

    def num_parameters(self, vocabulary_size: int) -> int:
        """Return the number of parameters, with tied matrices counted once."""
        norms = (2 * self.num_layers + 1) * self.width
        return sum(rows * columns for rows, columns in self.matrices(vocabulary_size)) + norms


PRESETS: dict[str, LlamaShape] = {
    # 20 k parameters beside the embedding: to try a configuration, a launcher or a cluster.
    "nano": LlamaShape(
        num_layers=2, width=32, num_heads=2, num_kv_heads=1, mlp_width=64, tied_embeddings=True
    ),
    # 1.8 M parameters with 8,192 tokens: a demonstration on two CPU cores.
    "tiny": LlamaShape(
        num_layers=4, width=128, num_heads=4, num_kv_heads=2, mlp_width=384, tied_embeddings=True
    ),
    # 7.7 and 29.9 M parameters with 8,192 tokens: to see how results change with size.
    "8m": LlamaShape(
        num_layers=7, width=256, num_heads=4, num_kv_heads=4, mlp_width=704, tied_embeddings=True
    ),
    "30m": LlamaShape(
        num_layers=8, width=512, num_heads=8, num_kv_heads=8, mlp_width=1408, tied_embeddings=True
    ),
    # GPT-3 small, medium and large with SwiGLU at 8/3 of the width: the sizes of the DGA paper.
    "125m": LlamaShape(
        num_layers=12,
        width=768,
        num_heads=12,
        num_kv_heads=12,
        mlp_width=2048,
        tied_embeddings=True,
    ),
    "350m": LlamaShape(
        num_layers=24,
        width=1024,
        num_heads=16,
        num_kv_heads=16,
        mlp_width=2816,
        tied_embeddings=True,
    ),
    "750m": LlamaShape(
        num_layers=24,
        width=1536,
        num_heads=16,
        num_kv_heads=16,
        mlp_width=4096,
        tied_embeddings=True,
    ),
    # TinyLlama 1.1B and Llama 2 7B.
    "1b": LlamaShape(
        num_layers=22,
        width=2048,
        num_heads=32,
        num_kv_heads=4,
        mlp_width=5632,
        tied_embeddings=False,
    ),
    "7b": LlamaShape(
        num_layers=32,
        width=4096,
        num_heads=32,
        num_kv_heads=32,
        mlp_width=11008,
        tied_embeddings=False,
    ),
}
