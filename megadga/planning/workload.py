"""What is planned: a decoder, how it is trained, and on how many devices."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

from megadga.config.llama_shapes import LlamaShape
from megadga.mixers.probing import Probe

Stage = Literal[0, 1, 2, 3]
Arithmetic = Literal["megadga", "transformers"]
"""Whose functions compute what is between matrix products: ours keep nothing for the backward pass
but their arguments; those of transformers keep more, and norms round in between."""

Compiled = Literal["nothing", "functions", "blocks"]
"""Whether what is not a matrix product is fused, as by ``torch.compile``: within functions without
parameters, or in blocks."""


@final
@dataclass(frozen=True)
class Decoder:
    """A decoder of equal blocks.

    Attributes:
        num_layers: Blocks (L).
        hidden_size: Features of the residual stream (D).
        num_heads: Query heads (H).
        kv_width: Features of all key heads together, ``hidden_size`` without grouped queries.
        intermediate_size: Hidden features of the feed-forward (M).
        vocabulary_size: Rows of the embedding (V).
        tied_embeddings: Whether the output matrix is the embedding.
        arithmetic: Whose functions compute what is between the matrices.
        gated: Whether the feed-forward has three matrices (SwiGLU), or two.
        rotary: Whether queries and keys are rotated.
        compiled: What is compiled of the blocks.
        compiled_loss: Whether the losses of the scores are, too.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    kv_width: int
    intermediate_size: int
    vocabulary_size: int
    tied_embeddings: bool
    arithmetic: Arithmetic = "megadga"
    gated: bool = True
    rotary: bool = True
    compiled: Compiled = "nothing"
    compiled_loss: bool = False

    @classmethod
    def of_llama(
        cls,
        shape: LlamaShape,
        *,
        vocabulary_size: int,
        arithmetic: Arithmetic = "megadga",
        compiled: Compiled = "nothing",
    ) -> "Decoder":
        """Return a Llama's; ours compiles its losses with its blocks, others their layers alone.

        Args:
            shape: Its sizes.
            vocabulary_size: Rows of the embedding (V).
            arithmetic: Whose functions compute what is between the matrices.
            compiled: What is compiled of the blocks.
        """
        return cls(
            num_layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            num_heads=shape.num_heads,
            kv_width=shape.num_kv_heads * shape.head_width,
            intermediate_size=shape.intermediate_size,
            vocabulary_size=vocabulary_size,
            tied_embeddings=shape.tied_embeddings,
            arithmetic=arithmetic,
            compiled=compiled,
            compiled_loss=compiled != "nothing" and arithmetic == "megadga",
        )

    @cached_property
    def block_matrices(self) -> tuple[tuple[int, int], ...]:
        """Features read and written by each matrix of a block."""
        width, hidden = self.hidden_size, self.intermediate_size
        attention = ((width, width), (width, self.kv_width), (width, self.kv_width))
        inner = ((width, hidden),) * (2 if self.gated else 1)
        return (*attention, (width, width), *inner, (hidden, width))

    @cached_property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """The same for all matrices, tied ones once."""
        table = (self.hidden_size, self.vocabulary_size)
        tables = (table,) * (1 if self.tied_embeddings else 2)
        return tables + self.block_matrices * self.num_layers

    @property
    def block_parameters(self) -> int:
        """Parameters of a block."""
        return sum(m * n for m, n in self.block_matrices) + 2 * self.hidden_size

    @property
    def table_parameters(self) -> int:
        """Parameters of the embedding, or of the output matrix."""
        return self.vocabulary_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once (P)."""
        tables = 1 if self.tied_embeddings else 2
        blocks = self.num_layers * self.block_parameters
        return blocks + tables * self.table_parameters + self.hidden_size

    @property
    def used_parameters(self) -> int:
        """Parameters that a pass gathers under ZeRO-3: tied ones as often as they are used."""
        blocks = self.num_layers * self.block_parameters
        return blocks + 2 * self.table_parameters + self.hidden_size

    def flops_per_token(self, sequence_length: int) -> float:
        """Return the model's FLOPs of one trained token, forward and backward.

        ``6 N + 12 L D S`` (Chowdhery et al., arXiv 2204.02311, Appendix B): ``N`` has the output
        matrix and not the embedding; attention counts as if it were not causal, and what is
        computed again (activation checkpointing) counts nothing.
        """
        looked_up = 0 if self.tied_embeddings else self.table_parameters
        attention = 12.0 * self.num_layers * self.hidden_size * sequence_length
        return 6.0 * (self.num_parameters - looked_up) + attention


@final
@dataclass(frozen=True)
class Zero:
    """DeepSpeed's settings that take part; numbers of elements, not of bytes.

    Attributes:
        stage: 0 to 3.
        reduce_bucket: Elements that gradients are reduced in.
        overlap_comm: Whether gradients are reduced while the backward pass goes on.
        persistence_threshold: Parameters that are no larger stay gathered (ZeRO-3).
        max_live: Parameters that are gathered at once, at most (ZeRO-3).
        max_reuse_distance: Parameters that are used again within so many stay gathered (ZeRO-3).
        fused_optimizer: Whether the optimizer's step is one kernel, without temporaries.
    """

    stage: Stage
    reduce_bucket: int = 500_000_000
    overlap_comm: bool = False
    persistence_threshold: int = 100_000
    max_live: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000
    fused_optimizer: bool = True


@final
@dataclass(frozen=True)
class Workload:
    """A training run on a number of devices.

    Attributes:
        decoder: What is trained.
        zero: DeepSpeed's settings.
        ranks: Data-parallel ranks, one a device (W).
        sequence_length: Tokens of a sequence (S).
        micro_batch: Sequences of a forward pass on a rank (b).
        accumulation: Micro-batches of an optimizer step on a rank.
        element_bytes: Of weights and activations: 2 for bf16, 4 for fp32.
        checkpointing: Whether each block's activations are computed again (activation
            checkpointing).
        on_cpu: Whether ranks are CPUs, where torch takes other temporaries.
    """

    decoder: Decoder
    zero: Zero
    ranks: int
    sequence_length: int
    micro_batch: int
    accumulation: int
    element_bytes: Literal[2, 4] = 2
    checkpointing: bool = False
    on_cpu: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch (N)."""
        return self.micro_batch * self.sequence_length

    @property
    def global_batch(self) -> int:
        """Sequences of an optimizer step over all ranks (B)."""
        return self.ranks * self.micro_batch * self.accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step over all ranks."""
        return self.global_batch * self.sequence_length

    @property
    def partitions(self) -> int:
        """Ranks that the optimizer's states are divided over."""
        return self.ranks if self.zero.stage else 1


@final
@dataclass(frozen=True)
class Measuring:
    """What an update of the mixture measures.

    Attributes:
        probe: How alignments are measured.
        num_measured: Domains, or basis distributions over them (K).
        specific_sequences: Sequences of the target's gradient.
        interval: Optimizer steps between updates (T_r).
        num_updates: Of the whole run.
        preconditioned: Whether the direction is divided by AdamW's second moments.
        norms: Whether every domain's own gradient is formed, for its norm.
        num_targets: Specific sets that are measured one by one; 1 if together.
    """

    probe: Probe
    num_measured: int
    specific_sequences: int
    interval: int
    num_updates: int
    preconditioned: bool = False
    norms: bool = False
    num_targets: int = 1
