"""Tokens per second and model FLOPs utilisation of training: plain, with DGA, and Hugging Face's.

All have the same DeepSpeed settings; where our blocks are compiled, so are the rival's layers.
Rounds run every variant once, in turns, on engines that live side by side. An optimizer step
here is one rank's share of a node of eight: with K = 64 domains of 8 sequences each and 32
specific ones, a rank measures 64 + 4 sequences per update, and trains on 32 a step.
"""

import gc
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import deepspeed
import torch

from alignment_bench.case import Case
from alignment_bench.cost import AGAIN, PLAIN, Seconds, cost_rows, cost_variants, time_rounds
from alignment_bench.tokens import cut, write_tokens
from alignment_bench.workbench import Workbench, make_engine, training_settings
from megadga.config.llama_shapes import LlamaShape
from megadga.mixers.dga import Dga
from megadga.mixers.probing import Directional
from megadga.mixers.static import uniform_weights
from megadga.model.llama import Llama
from megadga.plugin import MixturePlugin, Sampling
from megadga.probes.loss import mean_loss

from .setting import Deadline, Row, Setting

DGA = "dga"
HUGGING_FACE = "hugging face"
INTERVAL = 100  # T_r, optimizer steps between updates
NUM_DOMAINS = 64
STEPS = 1  # of a variant in a round
PEAK_FLOPS: Mapping[str, float] = {
    "H100": 989.4e12,
    "H200": 989.4e12,
    "A100": 312e12,
    "B200": 2250e12,
}
"""Dense bf16 by the vendor's data sheets (SXM), FLOP/s."""


@dataclass(frozen=True)
class SpeedCase:
    """One model at one sequence length.

    Attributes:
        preset: Name of the model.
        sequence_length: Targets of a sequence (S).
        micro_batch: Sequences of a forward pass.
        every_probe: Whether each probe is timed by itself as well.
        compiled: Whether it is trained as with ``model: {compile: true}``.
        zero_stage: Of its engine; where it is 3, functions are compiled instead of blocks.
        with_rival: Whether Hugging Face's model is timed beside it.
    """

    preset: str
    sequence_length: int
    micro_batch: int
    every_probe: bool = False
    compiled: bool = False
    zero_stage: int = 2
    with_rival: bool = True


_COMPILED = SpeedCase("350m", 2048, 16, compiled=True, every_probe=True)
_PARTITIONED = SpeedCase(
    "1b", 2048, 8, compiled=True, zero_stage=3, every_probe=True, with_rival=False
)
CASES = (
    _COMPILED,
    SpeedCase("1b", 2048, 8, compiled=True, with_rival=False),
    SpeedCase("350m", 2048, 16, every_probe=True),
    SpeedCase("1b", 2048, 8, every_probe=True),
    _PARTITIONED,
    SpeedCase("125m", 1024, 32, compiled=True, every_probe=True),
    SpeedCase("125m", 1024, 32),
)
_SEQUENCES = 32  # of an optimizer step


def speed(setting: Setting, deadline: Deadline) -> Iterator[Row]:
    """Yield rows of each case in the order of their worth; one that fails ends no other."""
    cases = (_COMPILED, _PARTITIONED) if setting.quick else CASES
    for case in cases:
        if deadline.left_s < 5.0:
            return
        try:
            yield from _measure(setting, case)
        except Exception:  # noqa: BLE001  (out of memory, a compiler: the next case may do well)
            yield {"check": "speed", **_labels(case), "error": traceback.format_exc(limit=-4)}
        _collect(setting)


def _collect(setting: Setting) -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()


def _labels(case: SpeedCase) -> Row:
    return {
        "model": case.preset,
        "sequence_length": case.sequence_length,
        "micro_batch": case.micro_batch,
        "stage": case.zero_stage,
        "compiled": case.compiled,
    }


def _measure(setting: Setting, speed_case: SpeedCase) -> Iterator[Row]:
    micro_batch = 2 if setting.quick else speed_case.micro_batch
    case = setting.case(
        speed_case.preset,
        stage=speed_case.zero_stage,
        precision="bf16",
        sequence_length=speed_case.sequence_length,
        micro_batch=micro_batch,
        accumulation=2 if setting.quick else _SEQUENCES // micro_batch,
    )
    num_domains = 4 if setting.quick else NUM_DOMAINS
    folder = setting.scratch / f"speed-{'-'.join(map(str, _labels(speed_case).values()))}"
    write_tokens(folder, replace(case, total_sequences=4 * num_domains))
    engine = make_engine(case)
    if speed_case.compiled:
        _compile(engine.module, speed_case, setting)
    bench = Workbench(case, folder, engine)
    for row in _rows_in_turns(bench, speed_case, num_domains, setting):
        yield {"check": "speed", **_labels(speed_case), **row}
    _collect(setting)  # the rival's memory
    if speed_case.every_probe:
        yield from _probe_rows(bench, speed_case, setting)
    engine.destroy()


def _compile(model: Llama, speed_case: SpeedCase, setting: Setting) -> None:
    """Compile what ``model: {compile: true}`` does."""
    if speed_case.zero_stage == 3:
        model.compile_functions(backend=_backend(setting))
    else:
        model.compile_blocks(backend=_backend(setting))


def _rows_in_turns(
    bench: Workbench, speed_case: SpeedCase, num_domains: int, setting: Setting
) -> Iterator[Row]:
    """Time plain training, DGA and the rival, which lives as long as this takes."""
    rival: Any = None
    if speed_case.with_rival:
        try:
            rival = _hugging_face_engine(bench.case)
            if speed_case.compiled:
                for layer in rival.module.model.layers:
                    layer.compile(backend=_backend(setting))
            _train_hugging_face(rival, bench)
        except Exception:  # noqa: BLE001  (whatever it is, ours is still to be timed)
            yield {"variant": HUGGING_FACE, "error": traceback.format_exc(limit=-4)}
            rival = None
    plugin = _plugin(bench, num_domains)
    probe_s: list[float] = []
    variants: dict[str, Callable[[], object]] = {
        PLAIN: lambda: [bench.train() for _ in range(STEPS)],
        DGA: lambda: probe_s.append(_train_with_dga(bench, plugin)),
    }
    if rival is not None:
        variants[HUGGING_FACE] = lambda: [_train_hugging_face(rival, bench) for _ in range(STEPS)]
    variants[AGAIN] = lambda: [bench.train() for _ in range(STEPS)]
    peaks = _warm(variants, setting)
    probe_s.clear()
    seconds: Seconds = {}
    for found in time_rounds(variants, bench.case.rounds, bench.engine.device):
        seconds = found
    plugin.close()
    if rival is not None:
        rival.destroy()
    yield from _speed_rows(bench.case, seconds, probe_s, peaks, setting)


def _backend(setting: Setting) -> str:
    return "eager" if setting.quick else "inductor"


def _probe_rows(bench: Workbench, speed_case: SpeedCase, setting: Setting) -> Iterator[Row]:
    """Yield a sequence's cost in each probe, and in the update step in flight."""
    variants = cost_variants(bench)
    _warm(variants, setting)
    seconds: Seconds = {}
    for found in time_rounds(variants, bench.case.rounds, bench.engine.device):
        seconds = found
    for row in cost_rows(bench.case, len(bench.domains), seconds):
        yield {"check": "probe", **_labels(speed_case), **row}


def _warm(variants: Mapping[str, Callable[[], object]], setting: Setting) -> dict[str, int | None]:
    """Run every variant once; return the most memory it takes beyond what was taken before.

    A quick check measures neither, and runs nothing twice.
    """
    peaks: dict[str, int | None] = dict.fromkeys(variants)
    if setting.quick:
        return peaks
    for name, run in variants.items():
        if setting.device == "cpu":
            run()
            peaks[name] = None
            continue
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    return peaks


def _speed_rows(
    case: Case,
    seconds: Seconds,
    probe_s: list[float],
    peaks: Mapping[str, int | None],
    setting: Setting,
) -> list[Row]:
    tokens = case.global_batch * case.sequence_length
    rows: list[Row] = []
    for name, own in seconds.items():
        step_s = median(own) / STEPS
        row: Row = {"variant": name, "peak_bytes": peaks[name]}
        if name == DGA:
            step_s = median((s - p) / STEPS for s, p in zip(own, probe_s, strict=True))
            row |= {
                "step_without_update_s": step_s,
                "update_s": median(probe_s),
                "interval": INTERVAL,
                "overhead": median(probe_s) / (INTERVAL * step_s),
            }
            step_s += median(probe_s) / INTERVAL
        rate = tokens / step_s
        row |= {
            "step_s": step_s,
            "tokens_per_s": rate,
            "ratio_to_plain": median(a / b for a, b in zip(seconds[PLAIN], own, strict=True)),
            "mfu": _utilisation(rate, case, setting),
        }
        if name == DGA:
            row["ratio_to_plain"] = median(seconds[PLAIN]) / STEPS / step_s
        rows.append(row)
    return rows


def flops_per_token(shape: LlamaShape, *, vocabulary_size: int, sequence_length: int) -> float:
    """Return the model's FLOPs of one trained token, forward and backward.

    ``6 N + 12 L D S`` (Chowdhery et al., arXiv 2204.02311, Appendix B), as torchtitan and nanoGPT
    count: ``N`` has the output matrix and not the embedding, whose look-up costs none; attention
    counts as if it were not causal.
    """
    tables = 1 if shape.tied_embeddings else 2
    embedding = vocabulary_size * shape.hidden_size
    num_parameters = shape.num_parameters(vocabulary_size) - (tables - 1) * embedding
    return 6.0 * num_parameters + 12.0 * shape.num_layers * shape.hidden_size * sequence_length


def _utilisation(rate: float, case: Case, setting: Setting) -> float | None:
    """Return the share of the device's peak; None where the peak is not known."""
    if setting.device == "cpu":
        return None
    name = torch.cuda.get_device_name()
    peaks = [flops for part, flops in PEAK_FLOPS.items() if part in name]
    per_token = flops_per_token(
        case.shape, vocabulary_size=case.vocabulary_size, sequence_length=case.sequence_length
    )
    return rate * per_token / peaks[0] if peaks else None


def _plugin(bench: Workbench, num_domains: int) -> MixturePlugin:
    return MixturePlugin(
        bench.engine,
        cut(bench.text, num_domains),
        bench.specific_set,
        Dga(uniform_weights(num_domains), step_size=0.1, ema=0.1),
        sampling=Sampling(seed=0),
        interval=STEPS,
        probe=Directional(sequences_per_domain=1, specific_sequences=4),
    )


def _train_with_dga(bench: Workbench, plugin: MixturePlugin) -> float:
    """Take ``STEPS`` steps, the last with an update; return the seconds that it took."""
    metrics: dict[str, Any] = {}
    for _ in range(STEPS):
        for tokens in plugin.next_batch().tokens:
            bench.engine.backward(mean_loss(bench.engine, tokens))
            bench.engine.step()
        metrics = dict(plugin.after_step(plugin.step))
    return float(metrics["update"]["probe_s"])


def _hugging_face_engine(case: Case) -> Any:
    """Return a plain DeepSpeed engine around Hugging Face's Llama of the same sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (slow to import)

    shape = case.shape
    configure: Any = LlamaConfig  # takes more than it declares
    config = configure(
        vocab_size=case.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=case.sequence_length,
        tie_word_embeddings=shape.tied_embeddings,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    initialize: Any = deepspeed.initialize  # pyright: ignore[reportUnknownVariableType]
    engine, *_ = initialize(
        model=model, model_parameters=list(model.parameters()), config=training_settings(case)
    )
    return engine


def _train_hugging_face(engine: Any, bench: Workbench) -> None:
    """Take one step on the same tokens; the loss is the model's own."""
    for tokens in bench.batch:
        inputs = tokens[:, :-1]
        engine.backward(engine(input_ids=inputs, labels=inputs).loss)
        engine.step()
