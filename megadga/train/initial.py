"""Copies the weights that a run starts from into its model, also where ZeRO-3 divides it."""

from collections.abc import Mapping
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

from megadga.config.models import LlamaModel
from megadga.config.run import RunConfig
from megadga.errors import ConfigError, ResumeError
from megadga.model.naming import from_hugging_face, hugging_face_config
from megadga.prepare.extras import import_extra
from megadga.probes.gradients import full_shape
from megadga.run_folder.checkpoints import find_damage
from megadga.train.saved import SavedRun
from megadga.train.weights import StoredTensor, Weights, open_weights

_COMPARED = (
    *("hidden_act", "attention_bias", "mlp_bias", "head_dim"),
    *("rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
)
"""Keys of transformers' configuration that no shape of a weight tells."""


def load_initial(
    config: RunConfig, initial: SavedRun | Path, model: nn.Module, *, partitioned: bool
) -> None:
    """Copy weights into a model, parameter by parameter. Collective.

    Rows that the configuration adds to the embedding (``vocabulary_size``) keep their values.

    Args:
        config: The run.
        initial: Another run's model, or a folder of a Llama of Hugging Face.
        model: The newly built model.
        partitioned: Whether it is divided among the ranks: the first one reads. Else each does.

    Raises:
        ConfigError: If the weights are damaged or not those of this model; on every rank.
    """
    weights = (
        _of_folder(config, initial) if isinstance(initial, Path) else _of_run(config, initial)
    )
    parameters = dict(model.named_parameters())
    _check_names(config, weights, model)
    rows = weights[next(iter(parameters))].shape[0]  # the first is the embedding, in any decoder
    for name, parameter in parameters.items():
        _check_shape(config, name, weights[name].shape, tuple(full_shape(parameter)), rows=rows)
    reads = not partitioned or dist.get_rank() == 0
    with torch.no_grad():
        for name, parameter in parameters.items():
            stored = weights[name]
            gathered = deepspeed.zero.GatheredParameters(
                [parameter], modifier_rank=0, enabled=partitioned
            )
            with gathered:
                if reads:
                    parameter[: stored.shape[0]].copy_(stored.read())
        for name, buffer in _persistent_buffers(model).items():
            buffer.copy_(weights[name].read())


def _of_run(config: RunConfig, initial: SavedRun) -> Weights:
    """Open the weights in another run's checkpoint, which rank 0 compares with its checksums."""
    damage = [None if dist.get_rank() else find_damage(initial.checkpoint, initial.header)]
    dist.broadcast_object_list(damage)
    if damage[0] is not None:
        raise _unfit(config, "an intact checkpoint", damage[0])
    try:
        return open_weights(initial.checkpoint, initial.zero_stage)
    except ResumeError as error:
        raise _unfit(config, "a checkpoint of the model in its config.yaml", str(error)) from None


def _of_folder(config: RunConfig, folder: Path) -> Weights:
    """Open the weights of a Llama of Hugging Face, by our names."""
    transformers = import_extra("transformers", extra="hf")
    section = config.model
    assert isinstance(section, LlamaModel)
    try:
        theirs = transformers.AutoConfig.from_pretrained(folder)
        stored = open_safetensors(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _unfit(config, f"a Llama of Hugging Face in {folder}", found) from error
    if theirs.model_type != "llama":
        expected = "a folder of model_type llama, or model.type hugging_face"
        raise _unfit(config, expected, f"{theirs.model_type} in {folder}")
    ours = hugging_face_config(
        section.shape,
        vocabulary_size=theirs.vocab_size,
        sequence_length=section.sequence_length,
        eod=0,
    )
    for key in _COMPARED:
        if ours[key] != (found := getattr(theirs, key)):
            raise _unfit(config, f"{key} {ours[key]}", f"{found} in {folder}")
    try:
        return {from_hugging_face(name): each for name, each in stored.items()}
    except KeyError as error:
        raise _unfit(config, "weights of a Llama", f"{error.args[0]} in {folder}") from None


def open_safetensors(folder: Path) -> Weights:
    """Return the weights in a folder's safetensors files, memory-mapped, by their names there.

    Raises:
        OSError: If there are none, or they cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors in {folder}")
    found: dict[str, StoredTensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118  (it is no mapping)
                tensor: Tensor = content.get_tensor(name)
                found[name] = StoredTensor(tuple(tensor.shape), (tensor,))
    return found


def _check_names(config: RunConfig, weights: Weights, model: nn.Module) -> None:
    needed = [*dict(model.named_parameters()), *_persistent_buffers(model)]
    known = model.state_dict().keys()
    for name in needed:
        if name not in weights:
            raise _unfit(config, f"a weight {name}, as this model has", "none")
    for name in weights:
        if name not in known:
            raise _unfit(config, "the weights of this model alone", f"{name} as well")


def _check_shape(
    config: RunConfig,
    name: str,
    found: tuple[int, ...],
    expected: tuple[int, ...],
    *,
    rows: int,
) -> None:
    """Check a weight's shape; of the embedding and the output, ``rows`` may become more."""
    grows = found[0] == rows < expected[0] == config.model.vocabulary_size
    if found == expected or (grows and found[1:] == expected[1:]):
        return
    raise _unfit(config, f"{name} of shape {expected}", f"shape {found}")


def _persistent_buffers(model: nn.Module) -> Mapping[str, Tensor]:
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _unfit(config: RunConfig, expected: str, found: str) -> ConfigError:
    return config.invalid("model", "initial_weights", expected=expected, found=found)
