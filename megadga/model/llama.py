"""A Llama-shaped decoder.

The initial value of every parameter depends only on the seed and its name: equal bits on every
rank, for any partition.
"""

# ruff: noqa: N803, N806 (shape suffixes are capitals)

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from megadga.config.llama_shapes import LlamaShape
from megadga.model.compiling import compile_module, compiled
from megadga.model.fused import gated, rms_norm, rotate
from megadga.model.losses import Decoder, LossKernels

Initializer = Callable[[Tensor], None]


@dataclass(frozen=True)
class NormalInitializer:
    """Fills a weight with normal numbers that depend only on ``(seed, name)``.

    Args:
        seed: Seed of the model, at least 0.
        name: Address of the weight.
        standard_deviation: At least 0.
    """

    seed: int
    name: str
    standard_deviation: float

    @torch.no_grad()
    def __call__(self, weight: Tensor) -> None:
        """Overwrite ``weight``, of any shape, dtype and device."""
        address = hashlib.blake2b(f"{self.seed}/{self.name}".encode(), digest_size=8).digest()
        generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(address, "little"))
        # Under zero.Init torch.empty and torch.randn create tensors of the training dtype;
        # torch.normal does not, and copying rounds once, like a cast of float32.
        values = torch.normal(
            0.0,
            self.standard_deviation,
            tuple(weight.shape),
            generator=generator,
            dtype=torch.float32,
            device="cpu",
        )
        weight.copy_(values)


@dataclass(frozen=True)
class DecoderInitialization:
    """Initialization of a decoder's matrices, by their role.

    Every matrix is N(0, 2 / (5 width)) ("small init", Nguyen and Salazar 2019, arXiv 1910.05895);
    those that add to the residual stream are divided by sqrt(2 num_layers) (GPT-2), so that its
    variance does not grow with depth.

    Args:
        seed: Seed of the model, at least 0.
        width: Features of the residual stream.
        num_layers: Blocks, each of which adds to the stream twice.
        scope: Prefix of parameter names.
    """

    seed: int
    width: int
    num_layers: int
    scope: str = ""

    def within(self, scope: str) -> "DecoderInitialization":
        """Return the same initialization for a submodule."""
        return replace(self, scope=f"{self.scope}{scope}.")

    def inner(self, name: str) -> Initializer:
        """Return the initializer of a matrix that reads from the residual stream."""
        return NormalInitializer(self.seed, self.scope + name, math.sqrt(0.4 / self.width))

    def residual(self, name: str) -> Initializer:
        """Return the initializer of a matrix that adds to the residual stream."""
        deviation = math.sqrt(0.4 / self.width / (2 * self.num_layers))
        return NormalInitializer(self.seed, self.scope + name, deviation)


class Linear(nn.Linear):
    """A projection without bias.

    Args:
        in_features: Features read.
        out_features: Features written.
        initialize: Fills the weight, shape ``(out_features, in_features)``.
    """

    def __init__(self, in_features: int, out_features: int, initialize: Initializer) -> None:
        self._initialize = initialize  # first: the constructor of nn.Linear resets the weight
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Reset the weight to its initial value."""
        self._initialize(self.weight)


class Embedding(nn.Embedding):
    """A table of token embeddings.

    Args:
        vocabulary_size: Rows.
        width: Features of each.
        initialize: Fills the weight, shape ``(vocabulary_size, width)``.
    """

    def __init__(self, vocabulary_size: int, width: int, initialize: Initializer) -> None:
        self._initialize = initialize  # first: the constructor of nn.Embedding resets the weight
        super().__init__(vocabulary_size, width)

    def reset_parameters(self) -> None:
        """Reset the weight to its initial value."""
        self._initialize(self.weight)


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by angles that grow with the position (RoPE, arXiv 2104.09864).

    Feature ``e`` is paired with ``e + E / 2``; the pair turns by ``position * base^(-2e / E)``.
    Tables are float32 whatever the model is cast to, and the rotation is computed in float32.

    Args:
        head_width: Features of a head (E), even.
        sequence_length: Positions, at least 1.
        base: Base of the frequencies.

    Attributes:
        rotate: ``megadga.model.fused.rotate``, possibly compiled.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, head_width: int, sequence_length: int, base: float) -> None:
        super().__init__()
        self.rotate = rotate
        # By numpy: zero.Init makes torch.arange and torch.tensor of the training dtype.
        frequencies = base ** (-np.arange(0, head_width, 2) / head_width)
        angles = np.tile(np.outer(np.arange(sequence_length), frequencies), 2)
        for name, table in (("cosines", np.cos(angles)), ("sines", np.sin(angles))):
            rounded = torch.from_numpy(table.astype(np.float32))
            self.register_buffer(name, rounded, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        """Move the tables with the model, but keep float32: ``.to(bfloat16)`` would round them."""
        exact = self.cosines, self.sines
        super()._apply(fn, recurse)
        device = self.cosines.device
        self.cosines, self.sines = (table.to(device) for table in exact)
        return self

    def forward(self, heads_BHSE: Tensor) -> Tensor:
        """Return the rotated heads, shape and dtype as given: ``(b, heads, S, E)``."""
        length = heads_BHSE.shape[-2]
        if length > len(self.cosines):
            raise ValueError(
                f"tokens: expected at most {len(self.cosines)} positions, found {length}"
            )
        return self.rotate(heads_BHSE, self.cosines[:length], self.sines[:length])


NORM_EPSILON = 1e-5


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation of the residual stream (arXiv 1910.07467).

    Args:
        width: Features of the stream.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised stream, shape and dtype as given: ``(b, S, D)``."""
        return rms_norm(x, self.weight, NORM_EPSILON)


class Attention(nn.Module):
    """Causal self-attention with grouped queries."""

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.head_width = shape.head_width
        kv_width = shape.num_kv_heads * shape.head_width
        self.query = Linear(shape.hidden_size, shape.hidden_size, initialization.inner("query"))
        self.key = Linear(shape.hidden_size, kv_width, initialization.inner("key"))
        self.value = Linear(shape.hidden_size, kv_width, initialization.inner("value"))
        self.output = Linear(
            shape.hidden_size, shape.hidden_size, initialization.residual("output")
        )

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
    """SwiGLU: ``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202).

    Attributes:
        gated: ``megadga.model.fused.gated``, possibly compiled.
    """

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.gated = gated
        self.gate = Linear(
            shape.hidden_size, shape.intermediate_size, initialization.inner("gate")
        )
        self.up = Linear(shape.hidden_size, shape.intermediate_size, initialization.inner("up"))
        self.down = Linear(
            shape.intermediate_size, shape.hidden_size, initialization.residual("down")
        )

    def forward(self, stream_BSD: Tensor) -> Tensor:
        """Transform every position by itself: ``(b, S, D)`` to ``(b, S, D)``."""
        return self.down(self.gated(self.gate(stream_BSD), self.up(stream_BSD)))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, shape: LlamaShape, initialization: DecoderInitialization) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden_size)
        self.attention = Attention(shape, initialization.within("attention"))
        self.feed_forward_norm = RMSNorm(shape.hidden_size)
        self.feed_forward = FeedForward(shape, initialization.within("feed_forward"))

    def forward(self, stream_BSD: Tensor, rotary: RotaryEmbedding) -> Tensor:
        """Return the stream with both contributions added: ``(b, S, D)``."""
        stream_BSD = stream_BSD + self.attention(self.attention_norm(stream_BSD), rotary)
        return stream_BSD + self.feed_forward(self.feed_forward_norm(stream_BSD))


class Llama(Decoder):
    """A decoder of the Llama family (arXiv 2302.13971).

    The initial weights are a function of ``seed`` and ``shape``: equal bits on every rank, for any
    world size and ZeRO stage. Supports partitioned construction under ``deepspeed.zero.Init``.

    Args:
        shape: Sizes of the model.
        vocabulary_size: Vocabulary size (V).
        sequence_length: Maximum sequence length (S).
        seed: Seed of the initial weights, at least 0.
        checkpoint_activations: Whether to recompute the activations inside a block in the backward
            pass.
    """

    overwrites_scores = True

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
        initialization = DecoderInitialization(seed, shape.hidden_size, shape.num_layers)
        self.checkpoint_activations = checkpoint_activations
        self.embedding = Embedding(
            vocabulary_size, shape.hidden_size, initialization.inner("embedding")
        )
        self.rotary = RotaryEmbedding(shape.head_width, sequence_length, shape.rope_theta)
        self.blocks = nn.ModuleList(
            Block(shape, initialization.within(f"blocks.{layer}"))
            for layer in range(shape.num_layers)
        )
        self.norm = RMSNorm(shape.hidden_size)
        self.head = Linear(shape.hidden_size, vocabulary_size, initialization.inner("head"))
        if shape.tied_embeddings:
            self.head.weight = self.embedding.weight

    def compile_functions(self, *, backend: str = "inductor") -> None:
        """Compile what has no parameters, when it is first called; losses agree up to rounding.

        That is rotation, SwiGLU's product and the losses. Modules, and hooks of theirs, run as
        before.

        Args:
            backend: Of ``torch.compile``.
        """
        self.loss_kernels = LossKernels.compiled(backend=backend)
        self.rotary.rotate = compiled(rotate, backend=backend)
        activated = compiled(gated, backend=backend)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.feed_forward.gated = activated

    def compile_blocks(self, *, backend: str = "inductor") -> None:
        """Compile those functions, and blocks; passes with hooks run the latter eagerly.

        Args:
            backend: Of ``torch.compile``.
        """
        self.compile_functions(backend=backend)
        for block in self.blocks:
            compile_module(block, backend=backend)

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
