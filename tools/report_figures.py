"""Draw the figures of docs/report.md: trains on the demo's text, with DGA and uniform weights.

Runs that are finished are not trained again; `build/report-figures` may be deleted for new ones.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.demo.folder import (
    SPECIFIC,
    DemoFolder,
    collect_documents,
    train_demo_tokenizer,
    write_shards,
)

RUNS = (("dga", 0), ("dga", 1), ("uniform", 0), ("uniform", 1))
"""Rules, each with a seed."""
RULES = {
    "dga": """
  type: dga
  preset: paper
  interval: 6
  step_size: 2.0
  ema: 0.1
  score: cosine
  probe: {type: directional, sequences_per_domain: 4, specific_sequences: 16}""",
    "uniform": "{type: static, weights: uniform}",
}
SHOWN = (
    "specific_loss",
    "weights-dga-seed0",
    "weights_by_domain",
    "alignments-dga-seed0",
    "domain_losses",
    "epochs-dga-seed0",
)
"""Figures that the documentation shows, of those that are drawn."""

_RUN = """\
seed: {seed}
output: {name}
model: {{type: llama, preset: tiny, sequence_length: 128}}
data:
  domains: shards/domains
  specific: {{{specific}: {{path: shards/specific/{specific}}}}}
mixing: {mixing}
training: {{steps: 300, global_batch_size: 8, micro_batch_size: 8, precision: fp32}}
deepspeed:
  zero_optimization: {{stage: 2}}
  gradient_clipping: 1.0
  optimizer:
    type: AdamW
    params: {{torch_adam: true, fused: true, lr: 2.0e-3, betas: [0.9, 0.95], weight_decay: 0.1}}
  scheduler:
    type: WarmupCosineLR
    params: {{total_num_steps: auto, warmup_num_steps: 10, cos_min_ratio: 0.1}}
evaluation: {{interval: 30, sequences: 32}}
checkpoint: {{interval: 100, keep_last: 1}}
"""


def main() -> None:
    """Train what has not been trained, draw, and copy what the documentation shows."""
    parser = tool_parser(__doc__, "")
    parser.add_argument("--work", type=Path, default=Path("build/report-figures"))
    parser.add_argument("--docs", type=Path, default=Path("docs/report"))
    options = parser.parse_args()
    folder = DemoFolder(options.work)
    folder.root.mkdir(parents=True, exist_ok=True)
    collect_documents(folder, print)
    write_shards(folder, train_demo_tokenizer(folder, print), print)
    runs = [_trained(folder, rule, seed) for rule, seed in RUNS]
    figures = folder.root / "figures"
    _megadga(
        *("report", *map(str, runs), "--output", str(folder.root / "report.html")),
        *("--figures", str(figures)),
    )
    options.docs.mkdir(exist_ok=True)
    for key in SHOWN:
        shutil.copy(figures / f"{key}.png", options.docs / f"{key}.png")


def _trained(folder: DemoFolder, rule: str, seed: int) -> Path:
    name = f"{rule}-seed{seed}"
    text = _RUN.format(seed=seed, name=name, specific=SPECIFIC, mixing=RULES[rule])
    folder.config(name).write_text(text, encoding="utf-8")
    if not (folder.run(name) / "DONE").exists():
        _megadga("train", str(folder.config(name)))
    return folder.run(name)


def _megadga(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "megadga.cli", *arguments), check=True)  # noqa: S603


if __name__ == "__main__":
    run_program(main)
