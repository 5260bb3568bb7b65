"""Bytes that a rank holds, by what holds them, and the most that it holds at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from megadga.mixers.probing import Sharded
from megadga.planning.workload import Measuring, Workload

_FP32 = 4
_BLOCK = 1 << 24
"""Scores that the cross-entropy goes through at once (`megadga.model.losses`)."""
_BLOCK_ON_CPU = 1 << 20
_PROBE_BUCKET = 1 << 22
"""Elements that the probes' gradients are reduced in (`megadga.probes.gradients`)."""
_DIRECTION_BUCKET = 1 << 22
"""Elements that a direction is gathered in (`megadga.probes.directions`)."""


@final
@dataclass(frozen=True)
class Memory:
    """What one rank holds.

    Attributes:
        resident: Bytes between steps, by what they are for.
        moments: The most at each moment of a step or an update, resident bytes included.
        parts: Bytes of a step that come and go, by what they are for; they peak at different
            moments, and their sum says nothing.
    """

    resident: Mapping[str, int]
    moments: Mapping[str, int]
    parts: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most at any moment."""
        return max(self.moments.values())

    @property
    def limiting(self) -> str:
        """The moment of the peak."""
        return max(self.moments, key=lambda name: self.moments[name])


def predict_memory(workload: Workload, measuring: Measuring | None = None) -> Memory:
    """Return what a rank holds while it trains, and while it measures.

    Args:
        workload: The run.
        measuring: What its updates measure; None: nothing.
    """
    held = _resident(workload)
    direction = {} if measuring is None else _kept_directions(workload, measuring)
    base = sum(held.values()) + sum(direction.values())
    moments = {name: base + extra for name, extra in _moments(workload).items()}
    if measuring is not None:
        update = _update_moments(workload, measuring)
        moments |= {name: base + extra for name, extra in update.items()}
    return Memory({**held, **direction}, moments, _parts(workload))


def _shard(workload: Workload, bytes_per_parameter: int) -> int:
    return -(-workload.decoder.num_parameters * bytes_per_parameter // workload.partitions)


def persistent_parameters(workload: Workload) -> int:
    """Return the parameters that ZeRO-3 keeps gathered because they are small."""
    if workload.zero.stage < 3:
        return 0
    decoder, limit = workload.decoder, workload.zero.persistence_threshold
    norms = decoder.hidden_size * (2 * decoder.num_layers + 1)
    small = sum(m * n for m, n in decoder.matrices if m * n <= limit)
    return small + (norms if decoder.hidden_size <= limit else 0)


def _resident(workload: Workload) -> dict[str, int]:
    """Return what is there between optimizer steps.

    In bf16, and under any stage of ZeRO, the optimizer works on float32 copies of the weights:
    16 bytes a parameter in all, of which a stage divides more than the last one.
    """
    size, element, zero = workload.decoder.num_parameters, workload.element_bytes, workload.zero
    masters = _shard(workload, _FP32) if zero.stage or element < _FP32 else 0
    held = {
        "weights": _shard(workload, element) if zero.stage == 3 else element * size,
        "masters": masters,
        "optimizer": _shard(workload, 2 * _FP32),
    }
    if zero.stage == 3:
        held["gradients"] = _shard(workload, element)
        held["buckets"] = element * zero.reduce_bucket
        held["gathered"] = element * persistent_parameters(workload)
    return held


def _norm_bytes(workload: Workload) -> int:
    """Return what a norm keeps of each feature: its input and its output, and what is between."""
    element = workload.element_bytes
    if workload.decoder.arithmetic == "transformers":  # the stream in float32, not as it is
        return 2 * element + _FP32
    return 2 * element


def block_activations(workload: Workload) -> int:
    """Return the bytes that one block keeps of a micro-batch for its backward pass.

    Norms keep their input and output; attention its queries, keys, values, output, and a
    logarithm in float32 for each head; a gated feed-forward both inner products and what the last
    matrix reads; on a CPU, and by transformers, the activation as well.
    """
    decoder, element = workload.decoder, workload.element_bytes
    width, hidden = decoder.hidden_size, decoder.intermediate_size
    again = decoder.arithmetic == "megadga" and not workload.on_cpu  # the activation is computed
    inner = (2 if not decoder.gated else 3 if again else 4) * hidden
    features = element * (2 * width + 2 * decoder.kv_width + inner)
    norms = 2 * (width * _norm_bytes(workload) + _FP32)
    return workload.tokens * (features + norms + _FP32 * decoder.num_heads)


def kept_activations(workload: Workload) -> int:
    """Return the bytes that a micro-batch keeps for its backward pass, scores aside."""
    decoder = workload.decoder
    stream = workload.tokens * decoder.hidden_size
    last = stream * _norm_bytes(workload)
    if workload.checkpointing:
        return decoder.num_layers * stream * workload.element_bytes + last
    return decoder.num_layers * block_activations(workload) + last


def _scores(workload: Workload) -> int:
    return workload.tokens * workload.decoder.vocabulary_size


def _block_of_scores(workload: Workload) -> int:
    """Return the bytes of the float32 scores that the loss goes through at once."""
    block = _BLOCK_ON_CPU if workload.on_cpu else _BLOCK
    vocabulary = workload.decoder.vocabulary_size
    rows = min(workload.tokens, max(1, block // vocabulary))
    return _FP32 * rows * vocabulary


def _overwrites(workload: Workload) -> bool:
    """Tell whether the loss writes into the scores (``Decoder.overwrites_scores``)."""
    return workload.decoder.arithmetic == "megadga"


def _loss_forward(workload: Workload) -> int:
    scores, block = _scores(workload), _block_of_scores(workload)
    if workload.element_bytes == _FP32 and not _overwrites(workload):
        return 2 * _FP32 * scores  # and their log-probabilities
    return workload.element_bytes * scores + 2 * block


def _loss_backward(workload: Workload) -> int:
    scores, block = _scores(workload), _block_of_scores(workload)
    if workload.element_bytes == _FP32:  # in place of the log-probabilities, block by block
        return _FP32 * scores + 2 * block
    copies = 1 if _overwrites(workload) else 2
    return copies * workload.element_bytes * scores + 3 * block


def _gathered(workload: Workload) -> int:
    """Return the bytes of weights that ZeRO-3 has gathered during a pass."""
    if workload.zero.stage < 3:
        return 0
    others = workload.decoder.num_parameters - persistent_parameters(workload)
    decoder = workload.decoder
    largest = max(decoder.table_parameters, *(m * n for m, n in decoder.block_matrices))
    at_once = min(others, max(workload.zero.max_live, largest))
    return workload.element_bytes * at_once


def _inside_block(workload: Workload) -> int:
    """Return what a block's backward pass adds: gradients of its largest activations.

    With activation checkpointing the block's activations as well.
    """
    decoder = workload.decoder
    inner = (3 if decoder.gated else 2) * decoder.intermediate_size
    gradients = workload.tokens * (decoder.hidden_size + inner) * workload.element_bytes
    return gradients + (block_activations(workload) if workload.checkpointing else 0)


def _moments(workload: Workload) -> dict[str, int]:
    """Return what is held beside the resident bytes, at the moments of a step that can be worst.

    The last micro-batch has gradients of the others beside it.
    """
    zero, element = workload.zero, workload.element_bytes
    decoder = workload.decoder
    size, kept = decoder.num_parameters, kept_activations(workload)
    whole = element * size if zero.stage < 2 else 0
    reduced = _shard(workload, element) if zero.stage == 2 else 0
    earlier = (whole + reduced) if workload.accumulation > 1 else 0
    bucket = _bucket(workload)
    waiting = bucket if zero.stage == 1 and workload.accumulation > 1 else 0
    gathered = _gathered(workload)
    table = element * decoder.table_parameters
    stream = element * workload.tokens * decoder.hidden_size
    forward = earlier + waiting + gathered + kept
    moments = {
        "forward pass": forward + _loss_forward(workload),
        "loss": forward + _loss_backward(workload),
        "output matrix": forward + element * _scores(workload) + table + stream,
        "backward pass": earlier
        + bucket
        + gathered
        + kept
        + stream
        + (table if decoder.tied_embeddings else 0)
        + _inside_block(workload),
        "end of backward": whole + reduced + bucket + gathered + 2 * table,
        "step": _step(workload),
    }
    if zero.stage == 0 and workload.ranks > 1:
        moments["reduction"] = whole + element * min(size, zero.reduce_bucket)
    return moments


def _bucket(workload: Workload) -> int:
    """Return the bytes of ZeRO-1's and -2's buckets, which are whole however small the model."""
    zero = workload.zero
    if zero.stage not in {1, 2}:
        return 0
    return workload.element_bytes * zero.reduce_bucket * (2 if zero.overlap_comm else 1)


def _step(workload: Workload) -> int:
    """Return what the optimizer's step adds: float32 gradients of its part, and temporaries."""
    zero, element = workload.zero, workload.element_bytes
    size = workload.decoder.num_parameters
    own = _FP32 * -(-size // workload.partitions)
    temporaries = 0
    if not zero.fused_optimizer:
        # sqrt and quotient of a tensor on a CPU; of all of them at once on an accelerator
        if workload.on_cpu and not zero.stage:
            temporaries = 2 * _FP32 * workload.decoder.table_parameters
        else:
            temporaries = (2 if workload.on_cpu else 1) * own
    if zero.stage:
        return own + temporaries
    gradients = element * size
    return gradients + (own if element < _FP32 else 0) + temporaries


def _parts(workload: Workload) -> dict[str, int]:
    """Return what comes and goes in a step, by what it is for."""
    size, element = workload.decoder.num_parameters, workload.element_bytes
    parts = {
        "activations": kept_activations(workload),
        "scores": max(_loss_forward(workload), _loss_backward(workload)),
        "step": _step(workload),
    }
    if workload.zero.stage < 2:
        parts["gradients"] = element * size
    elif workload.zero.stage == 2:
        parts["gradients"] = _shard(workload, element)
    if bucket := _bucket(workload):
        parts["buckets"] = bucket
    if gathered := _gathered(workload):
        parts["gathered"] = gathered
    return parts


def factor_elements(workload: Workload, rank: int, *, extra: int = 0) -> tuple[int, int]:
    """Return the elements of a direction's left and right factors, and of what is not factored.

    Args:
        workload: The run.
        rank: Columns of factors.
        extra: More columns of the left ones.

    Returns:
        Elements of the left factors with what stays whole, and of the right ones.
    """
    factored = [(m, n) for m, n in workload.decoder.matrices if rank * (m + n) < m * n]
    whole = workload.decoder.num_parameters - sum(m * n for m, n in factored)
    left = sum(n for _, n in factored) * (rank + extra)
    return left + whole, sum(m for m, _ in factored) * rank


def _kept_directions(workload: Workload, measuring: Measuring) -> dict[str, int]:
    """Return what of a direction stays from one update to the next."""
    probe = measuring.probe
    if isinstance(probe, Sharded) or probe.direction == "full":
        return {}
    left, right = factor_elements(workload, probe.direction.most)
    found = left + right if probe.direction_interval > 1 else 0
    return {"directions": _FP32 * measuring.num_targets * (right + found)}


def _update_moments(workload: Workload, measuring: Measuring) -> dict[str, int]:
    """Return the moments of an update, beside the resident bytes.

    Between steps there are no gradients of training's. In flight there are.
    """
    size, element = workload.decoder.num_parameters, workload.element_bytes
    ranks, probe = workload.ranks, measuring.probe
    largest = max(m * n for m, n in workload.decoder.matrices)
    passes = max(
        kept_activations(workload) + _loss_forward(workload),
        kept_activations(workload) + _loss_backward(workload),
    ) + _gathered(workload)
    shard = _FP32 * -(-size // ranks)
    reducing = _FP32 * max(largest, _PROBE_BUCKET) + element * largest
    if isinstance(probe, Sharded):
        return {"update": 2 * shard + reducing + passes}
    if probe.direction == "full":
        own = element * -(-size // ranks)
        direction = own + element * largest if workload.zero.stage == 3 else element * size
        spreading = shard + 2 * element * max(largest, _DIRECTION_BUCKET)
        found = max(shard + reducing + passes, direction + spreading)
    else:
        left, right = factor_elements(workload, probe.direction.most)
        direction = element * (left + right)
        dense = (shard + reducing) if measuring.preconditioned else _FP32 * largest
        found = 2 * _FP32 * (left + right) + dense + element * largest + passes
    moments = {"specific gradient": found}
    if probe.type == "directional":
        moments["update"] = direction + passes
    else:
        worst = max(_moments(workload).values())
        moments["update"] = direction + worst
    return moments
