"""Decoders of saved runs, with the weights of their checkpoints."""

import torch
from torch import nn

from megadga.config.models import HuggingFaceModel, LlamaModel
from megadga.model.llama import Llama
from megadga.model.losses import Decoder
from megadga.train.models import model_errors, open_architecture, vocabulary_rows
from megadga.train.saved import SavedRun
from megadga.train.weights import copy_weights, open_weights


def build_decoder(run: SavedRun) -> Decoder:
    """Build the decoder of a saved run, with the names that training has, in float32.

    On the CPU; its weights are arbitrary.

    Raises:
        ConfigError: If transformers does not know the model, or the vocabulary is smaller than the
            tokenizer's.
    """
    architecture = open_architecture(run.config, run.tokenizer)
    rows = vocabulary_rows(run.config, run.tokenizer, architecture)
    match run.config.model:
        case LlamaModel() as section:
            return Llama(
                section.shape,
                vocabulary_size=rows,
                sequence_length=section.sequence_length,
                seed=0,
            )
        case HuggingFaceModel():
            assert architecture is not None
            with model_errors(run.config):
                return architecture.empty(vocabulary_size=rows, dtype=torch.float32)


def copy_checkpoint(run: SavedRun, model: nn.Module) -> None:
    """Copy the weights of a saved run's checkpoint into a model of the same names, one by one.

    Raises:
        ResumeError: If the checkpoint cannot be read, or is not of such a model.
    """
    copy_weights(open_weights(run.checkpoint, run.zero_stage), model, place=run.checkpoint)
