"""Writes a run's model as a Hugging Face folder, whole or not at all.

checkpoint ──mmap──▶ one shard at a time ──▶ .OUT.exporting/folder ──rename──▶ OUT
"""

import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from megadga.data.files import atomic_write, exclusive, flush
from megadga.data.manifest import TokenizerIdentity
from megadga.errors import ConfigError
from megadga.export.card import ModelFacts, model_card
from megadga.export.models import exported_model, rename_weights
from megadga.export.tokenizer import write_tokenizer
from megadga.prepare.extras import import_extra
from megadga.prepare.progress import Stages, no_progress
from megadga.prepare.tokenizers.kept import KeptTokenizer, find_tokenizer
from megadga.run_folder import METRICS_FILE
from megadga.train.saved import StepName, open_saved
from megadga.train.weights import StoredTensor, Weights, open_weights

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_CONFIG = "config.json"
_MARGIN_BYTES = 16 << 20
"""Room for all files but the weights."""


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    Attributes:
        step: Optimizer step of the checkpoint, or ``best``; None: the latest.
        dtype: Type of the weights. fp32 has the optimizer's own bits.
        max_shard_size: Largest size of a file, as ``5GB`` (10^9 bytes); also the memory needed. A
            larger tensor is a file of its own.
        tokenizer: The tokenizer's file; None: the one that is kept with the run's shards.
        with_tokenizer: Whether to export it.
    """

    step: StepName | None = None
    dtype: Dtype = "fp32"
    max_shard_size: str = "5GB"
    tokenizer: Path | None = None
    with_tokenizer: bool = True


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: The folder.
        step: Optimizer steps that the model was trained for.
        num_parameters: Number of its parameters, tied ones once.
        files: Names and sizes in bytes of all files, sorted.
        warnings: What differs from the run, one line each.
    """

    folder: Path
    step: int
    num_parameters: int
    files: Mapping[str, int]
    warnings: Sequence[str]


def export_run(
    run: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),
    *,
    stages: Stages = no_progress,
) -> Exported:
    """Write the model of a run's checkpoint as a folder that transformers loads.

    Works for every ZeRO stage and number of ranks, without a GPU or an engine. Memory: one file of
    weights (``max_shard_size``). Until it is complete, everything is in a hidden folder beside the
    output; what an interrupted export left there is replaced.

    Args:
        run: The run's output folder.
        output: The new folder; must not exist, or be empty.
        options: What is exported.
        stages: Reports progress.

    Raises:
        ConfigError: If the folder is not a run's, the output is in use or cannot be written, an
            option is invalid, or the tokenizer is missing, another one, or cannot be expressed.
        ResumeError: If there is no such checkpoint, or it is damaged.
    """
    _check_output(output)
    _split({}, options)  # refuses an invalid size before anything is read
    saved = open_saved(run, step=options.step)
    config, step, shards = saved.config, saved.header.step, saved.tokenizer
    tokenizer = None
    if options.with_tokenizer:
        tokenizer = find_tokenizer(
            config, fingerprint=shards.fingerprint, eod=shards.eod, given=options.tokenizer
        )
    saved.verify(stages)
    model = exported_model(config, num_tokens=shards.vocab_size, eod=shards.eod)
    stored = open_weights(saved.checkpoint, saved.zero_stage)
    weights = rename_weights(model, stored, place=saved.checkpoint)
    num_parameters = sum(tensor.numel for tensor in weights.values())
    with _written(output) as folder:
        warnings = (
            ["without a tokenizer, as asked for"]
            if tokenizer is None
            else write_tokenizer(tokenizer, folder, max_length=config.model.sequence_length)
        )
        _write_configs(model.config, folder, options.dtype, eod=shards.eod)
        _write_weights(weights, folder, options, stages)
        facts = ModelFacts(
            title=output.absolute().name,
            step=step,
            num_parameters=num_parameters,
            dtype=_torch_name(options.dtype),
            tokenizer=_describe(tokenizer, shards),
            version=version("megadga"),
        )
        card = model_card(config, run / METRICS_FILE, facts)
        _write(folder / "README.md", card.encode())
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return Exported(output, step, num_parameters, files, warnings)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: expected a new folder, found a file")
    if output.is_dir() and (inside := sorted(path.name for path in output.iterdir())):
        raise ConfigError(f"{output}: expected a new or empty folder, found {inside[0]} in it")


@contextmanager
def _written(output: Path) -> Generator[Path]:
    """Yield a folder to write to, which becomes the output if the block ends without an error."""
    path = output.absolute()
    work = path.with_name(f".{path.name}.exporting")
    try:
        with exclusive(work, f"export to {output}"):
            folder = work / "folder"
            shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted export
            folder.mkdir()
            try:
                yield folder
                flush(folder)
                folder.rename(path)
                flush(path.parent)
            finally:
                shutil.rmtree(work)
    except SafetensorError as error:
        raise ConfigError(f"{output}: expected to write it, found {error}") from error
    except OSError as error:
        place, reason = error.filename or output, error.strerror or error
        raise ConfigError(f"{place}: expected to write {output}, found {reason}") from error


def _split(weights: Weights, options: ExportOptions) -> Any:
    """Return which weights are in which file, as ``huggingface_hub`` describes it."""
    hub: Any = import_extra("huggingface_hub", extra="hf")
    dtype = DTYPES[options.dtype]

    def size(stored: StoredTensor) -> int:
        return stored.numel * _stored_type(stored, dtype).itemsize

    try:
        return hub.split_state_dict_into_shards_factory(
            dict(weights),
            get_storage_size=size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=options.max_shard_size,
        )
    except ValueError as error:
        expected = "a size such as 5GB or 500MB"
        raise ConfigError(f"--max-shard-size: expected {expected}, found {error}") from error


def _write_weights(weights: Weights, folder: Path, options: ExportOptions, stages: Stages) -> None:
    """Write the weights in files of a limited size, and the index of several."""
    split = _split(weights, options)
    total = split.metadata["total_size"]
    free = shutil.disk_usage(folder).free
    if free < total + _MARGIN_BYTES:
        raise ConfigError(
            f"{folder.parent.parent}: expected {(total + _MARGIN_BYTES) / 1e9:.2f} GB of space "
            f"for the model, found {free / 1e9:.2f}"
        )
    advance = stages("writing", total, "B")
    for file, names in split.filename_to_tensors.items():
        tensors = {name: _converted(name, weights[name], DTYPES[options.dtype]) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / _CONFIG, folder / file)  # else readable for its owner alone
        flush(folder / file)
        advance(sum(tensor.nbytes for tensor in tensors.values()))
        del tensors  # before the next file's are read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _stored_type(stored: StoredTensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if stored.dtype.is_floating_point else stored.dtype


def _converted(name: str, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Read a tensor in its exported type.

    Raises:
        ConfigError: If values are too large for the type.
    """
    tensor = stored.read()
    converted = tensor.to(_stored_type(stored, dtype))
    if converted is not tensor and not converted.isfinite().all():
        raise ConfigError(
            f"--dtype: expected a type that {name} fits in, found values up to "
            f"{tensor.abs().max().item():g}"
        )
    return converted


def _write_configs(config: Mapping[str, Any], folder: Path, dtype: Dtype, *, eod: int) -> None:
    """Write ``config.json`` and ``generation_config.json``."""
    made_by = {"transformers_version": version("transformers")}
    name = _torch_name(dtype)
    # Older readers know torch_dtype, newer ones dtype.
    _write_json(folder / _CONFIG, {**config, "dtype": name, "torch_dtype": name, **made_by})
    ids = {"bos_token_id": eod, "eos_token_id": eod, "pad_token_id": eod}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids, **made_by})


def _torch_name(dtype: Dtype) -> str:
    return str(DTYPES[dtype]).removeprefix("torch.")


def _describe(tokenizer: KeptTokenizer | None, shards: TokenizerIdentity) -> str:
    fingerprint = f"SHA-256 `{shards.fingerprint}`"
    if tokenizer is None:
        return f"Not in this folder: the one whose file has the {fingerprint}."
    return (
        f"A {tokenizer.ours.identity.kind} tokenizer of {shards.vocab_size:,} tokens, whose "
        f"file has the {fingerprint}; `{tokenizer.eod}` ends documents. Text that spells a "
        "special token is encoded to that token, unless the tokenizer is loaded with "
        "`split_special_tokens=True`."
    )


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _write_json(path: Path, content: object) -> None:
    _write(path, f"{json.dumps(content, indent=2)}\n".encode())
