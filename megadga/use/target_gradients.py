"""The gradient of a target's loss at a checkpoint, projected as the trace of its run is."""

from collections.abc import Sequence

import numpy as np
import torch

from megadga.arrays import FloatArray
from megadga.errors import ConfigError, ResumeError
from megadga.model.losses import Decoder
from megadga.prepare.progress import Stages
from megadga.probes.sequence_gradients import Projection, SequenceGradients
from megadga.run_folder.trace import TracedParameter, TraceHeader
from megadga.train.saved import SavedRun
from megadga.train.saved_models import build_decoder, copy_checkpoint
from megadga.use.sets import EvaluatedSet


def load_trained(run: SavedRun, device: torch.device, stages: Stages) -> Decoder:
    """Load the model of a checkpoint, in float32 and with the names that training has.

    Raises:
        ConfigError: If transformers does not know the model.
        ResumeError: If the checkpoint is damaged, or not of the model in its configuration.
    """
    run.verify(stages)
    model = build_decoder(run)
    copy_checkpoint(run, model)
    return model.to(device)


def target_gradient(
    model: Decoder,
    targets: Sequence[EvaluatedSet],
    header: TraceHeader,
    *,
    device: torch.device,
    batch_size: int,
    stages: Stages,
) -> tuple[FloatArray, float]:
    """Return the projected gradient of sets' mean loss, shape ``(p,)``, and that loss, in nats.

    The mean is over the targets of all windows of all sets.

    Args:
        model: See ``load_trained``; all its parameters are trained.
        targets: Sets, at least one.
        header: Of the trace that the projection is of.
        device: Where the model is.
        batch_size: Windows of a pass.
        stages: Reports progress.

    Raises:
        ConfigError: If the sets have no window.
        ResumeError: If the trace has other parameters than the model.
        UnsupportedEngineError: If the model's sequences cannot be told from one another.
    """
    gradients = SequenceGradients(model, Projection(header.dimension, header.seed), device)
    own = tuple(TracedParameter(p.name, p.shape, p.kept) for p in gradients.pieces)
    if own != header.parameters:
        raise ResumeError(
            f"trace: expected the {len(own)} parameters of the checkpoint's model, found "
            f"{len(header.parameters)} of others"
        )
    total = np.zeros(gradients.size)
    nats, number = 0.0, 0
    for each in targets:
        for windows in each.windows(batch_size, stages):
            tokens = torch.as_tensor(windows.tokens, device=device)
            with gradients.collecting(len(tokens)) as found:
                losses = model(tokens)
                losses.sum().backward()
            model.zero_grad()
            (of_windows,) = found
            total += of_windows.double().sum(0).numpy()
            nats += float(losses.detach().double().sum())
            number += int((windows.tokens[:, 1:] >= 0).sum())
    if not number:
        raise ConfigError("--target: expected windows with targets, found none")
    return total / number, nats / number
