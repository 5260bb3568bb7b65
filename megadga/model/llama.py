"""A Llama-shaped decoder whose forward is the loss of every token. Knows no engine and no ranks.

Shape suffixes: ``B`` sequences of a micro-batch, ``S`` positions, ``T = S + 1`` tokens of a
window, ``D`` width, ``H`` query heads, ``G`` key and value heads, ``E`` features of a head, ``M``
hidden features of the feed-forward, ``V`` vocabulary.
"""

# ruff: noqa: N803, N806 (shape suffixes are capitals)

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from megadga.model.initialization import DecoderInitialization
from megadga.model.layers import Embedding, Linear, RotaryEmbedding
from megadga.model.presets import LlamaShape
from megadga.shards.sequences import PADDING

NORM_EPSILON = 1e-5


class Attention(nn.Module):
    """Causal self-attention with grouped queries."""

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.head_width = shape.head_width
        kv_width = shape.num_kv_heads * shape.head_width
        self.query = Linear(shape.width, shape.width, initialization.inner("query"))
        self.key = Linear(shape.width, kv_width, initialization.inner("key"))
        self.value = Linear(shape.width, kv_width, initialization.inner("value"))
        self.output = Linear(shape.width, shape.width, initialization.residual("output"))

    def forward(self, stream_BSD: Tensor, rotary: RotaryEmbedding) -> Tensor:
        """Mix each position with those before it: ``(b, S, D)`` to ``(b, S, D)``."""
        query_BHSE = rotary(self._heads(self.query(stream_BSD)))
        key_BGSE = rotary(self._heads(self.key(stream_BSD)))
        value_BGSE = self._heads(self.value(stream_BSD))
        mixed_BHSE: Tensor = functional.scaled_dot_product_attention(
            query_BHSE, key_BGSE, value_BGSE, is_causal=True, enable_gqa=True
        )
        return self.output(mixed_BHSE.transpose(1, 2).flatten(2))

    def _heads(self, features: Tensor) -> Tensor:
        """Split ``(b, S, heads * E)`` into ``(b, heads, S, E)``."""
        return features.view(*features.shape[:2], -1, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202)."""

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.gate = Linear(shape.width, shape.mlp_width, initialization.inner("gate"))
        self.up = Linear(shape.width, shape.mlp_width, initialization.inner("up"))
        self.down = Linear(shape.mlp_width, shape.width, initialization.residual("down"))

    def forward(self, stream_BSD: Tensor) -> Tensor:
        """Transform every position by itself: ``(b, S, D)`` to ``(b, S, D)``."""
        hidden_BSM = functional.silu(self.gate(stream_BSD)) * self.up(stream_BSD)
        return self.down(hidden_BSM)


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.attention = Attention(shape, initialization.within("attention"))
        self.feed_forward_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(shape, initialization.within("feed_forward"))

    def forward(self, stream_BSD: Tensor, rotary: RotaryEmbedding) -> Tensor:
        """Return the stream with both contributions added: ``(b, S, D)``."""
        stream_BSD = stream_BSD + self.attention(self.attention_norm(stream_BSD), rotary)
        return stream_BSD + self.feed_forward(self.feed_forward_norm(stream_BSD))


class Llama(nn.Module):
    """A decoder of the Llama family (arXiv 2302.13971).

    The first weights are a function of ``seed`` and ``shape``: the same bits on every rank, for
    any world size and ZeRO stage. Builds under ``deepspeed.zero.Init`` one module at a time.

    Args:
        shape: Sizes of the model.
        vocabulary_size: Tokens that exist (V).
        sequence_length: Longest sequence it will read (S).
        seed: Seed of the first weights, at least 0.
        checkpoint_activations: Whether the activations inside a block are computed again in the
            backward pass instead of kept.
    """

    def __init__(
        self,
        shape: LlamaShape,
        *,
        vocabulary_size: int,
        sequence_length: int,
        seed: int,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        initialization = DecoderInitialization(seed, shape.width, shape.num_layers)
        self.checkpoint_activations = checkpoint_activations
        self.embedding = Embedding(vocabulary_size, shape.width, initialization.inner("embedding"))
        self.rotary = RotaryEmbedding(shape.head_width, sequence_length, shape.rope_base)
        self.blocks = nn.ModuleList(
            Block(shape, initialization.within(f"blocks.{layer}"))
            for layer in range(shape.num_layers)
        )
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.head = Linear(shape.width, vocabulary_size, initialization.inner("head"))
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the cross-entropy of each next token in nats.

        Padding changes nothing: it follows all tokens of its sequence, so that attention, which
        looks back, never shows it to one of them.

        Args:
            tokens_BT: Windows of token ids, or ``PADDING`` at their ends, shape ``(b, S + 1)``.

        Returns:
            Losses, float32, shape ``(b, S)``; 0 where the target is padding.
        """
        logits_BSV = self.logits(tokens_BT[:, :-1].clamp(min=0))  # any token will do for padding
        targets_BS = tokens_BT[:, 1:]
        precise = torch.promote_types(logits_BSV.dtype, torch.float32)
        losses = functional.cross_entropy(
            logits_BSV.flatten(0, 1).to(precise),
            targets_BS.flatten(),
            ignore_index=PADDING,
            reduction="none",
        )
        return losses.view_as(targets_BS)

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Return the scores of every next token: ``(b, S)`` ids to ``(b, S, V)``."""
        stream_BSD: Tensor = self.embedding(tokens_BS)
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                # No randomness to restore: blocks have no dropout.
                stream_BSD = checkpoint(  # pyright: ignore[reportUnknownVariableType]
                    block, stream_BSD, self.rotary, use_reentrant=False, preserve_rng_state=False
                )
            else:
                stream_BSD = block(stream_BSD, self.rotary)
        return self.head(self.norm(stream_BSD))
