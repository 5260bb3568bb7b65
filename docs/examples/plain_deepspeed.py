"""Data mixing in a plain DeepSpeed loop; the three lines that megadga adds are marked (1) to (3).

    deepspeed docs/examples/plain_deepspeed.py --domains shards/generic \
        --specific shards/specific/target --deepspeed-config docs/examples/plain_deepspeed.json

The model can be any ``torch.nn.Module`` that turns tokens ``(b, S + 1)`` into a loss.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from megadga import (
    Dga,
    DomainSource,
    MixturePlugin,
    Sampling,
    open_domain,
    open_domains,
    uniform_weights,
)


class BigramModel(nn.Module):
    """Stands for your model."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.output(self.embedding(tokens[:, :-1])).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train(
    model: nn.Module, settings: dict[str, Any], domains: Any, specific: Any, steps: int
) -> tuple[Any, MixturePlugin]:
    initialize: Any = deepspeed.initialize
    engine, *_ = initialize(model=model, model_parameters=model.parameters(), config=settings)
    scheduler = Dga(uniform_weights(len(domains)), step_size=1.0, ema=0.1)
    sampling = Sampling(seed=17)
    mixture = MixturePlugin(
        engine, domains, specific, scheduler, sampling=sampling, interval=5
    )  # (1)
    for step in range(1, steps + 1):
        for tokens in mixture.next_batch().tokens:  # (2)
            engine.backward(engine(tokens).mean())
            engine.step()
        mixture.after_step(step)  # (3)
    return engine, mixture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=Path, required=True, help="a folder of domains")
    parser.add_argument("--specific", type=Path, required=True, help="the specific set's folder")
    parser.add_argument("--deepspeed-config", type=Path, required=True)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs/plain"))
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    args = parser.parse_args()

    deepspeed.init_distributed()
    torch.manual_seed(17)
    reading: dict[str, Any] = {"split": "train", "sequence_length": args.sequence_length}
    domains = open_domains(args.domains, **reading)
    specific = open_domain(DomainSource("specific", args.specific), **reading)
    settings = json.loads(args.deepspeed_config.read_text())
    model = BigramModel(domains[0].tokenizer.vocab_size)

    engine, mixture = train(model, settings, domains, specific, args.steps)

    engine.save_checkpoint(str(args.checkpoints), client_state={"mixture": mixture.state_dict()})
    if torch.distributed.get_rank() == 0:
        for name, weight in zip(mixture.names, mixture.weights, strict=True):
            print(f"{name}: {weight:.3f}")
    torch.distributed.barrier()  # gloo's threads let go of tensors before the interpreter ends
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
