"""The experiment `continued`: a trained model goes on for a new target, and is then fine-tuned.

A model is trained at uniform weights and exported; from it, each rule trains on for each target;
and what came of that, as well as the model itself, is fine-tuned on the target's own texts.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from pydantic import TypeAdapter

from megadga.errors import MegadgaError
from megadga.report.records import read_metrics
from trials.agreement import markdown_table
from trials.evidence_data import ROOT, targets_root
from trials.evidence_results import BASELINE, last_loss, mean_over_seeds, read_list, write_list
from trials.evidence_runs import EvidenceRun, is_finished

BASE = "base"
RULES = (BASELINE, "importance", "matched", "dga")
"""Files of ``configs/evidence/continued`` that go on from the model."""
TUNED = "tuned"
BASE_SEEDS = 1000
"""What is added to a seed for the model, as the same one would go on with the same sequences."""
Stage = Literal["base", "continued", "tuned"]


@dataclass(frozen=True)
class ContinuedRun:
    """One run.

    Attributes:
        stage: The model that is continued; its continued pretraining; fine-tuning.
        rule: One of `RULES`; `BASE`: the model itself, in the first stage, or fine-tuned at once.
        target: What it is aligned to and evaluated on; empty: all, as nothing depends on it.
        seed: Of model, batches and probes.
    """

    stage: Stage
    rule: str
    target: str
    seed: int

    def run(self, targets: Sequence[str]) -> EvidenceRun:
        """Return what is trained.

        Args:
            targets: Those that a run without a target is evaluated on.
        """
        own = ", ".join(map(_specific, [self.target] if self.target else targets))
        changes = [f"data.specific={{{own}}}"]
        if self.stage == "continued":
            changes.append(f"model.initial_weights={model_folder(self.seed)}")
        if self.stage == "tuned":
            domain = f"{{name: target, path: {_shards(self.target)}}}"
            changes.append(f"data.domains=[{domain}]")
            changes.append(f"model.initial_weights={self._tuned_from(targets)}")
        if self.rule == "importance" and self.stage == "continued":
            changes.append(f"mixing.histogram={targets_root('all')}/histograms/{self.target}.json")
        config = TUNED if self.stage == "tuned" else self.rule
        label = f"{self.stage} {self.rule} {self.target}"
        seed = self.seed + BASE_SEEDS if self.stage == "base" else self.seed
        return EvidenceRun("continued", config, seed, label, tuple(changes))

    def _tuned_from(self, targets: Sequence[str]) -> Path:
        if self.rule == BASE:
            return model_folder(self.seed)
        target = "" if self.rule == BASELINE else self.target
        return ContinuedRun("continued", self.rule, target, self.seed).run(targets).folder


@dataclass(frozen=True)
class ContinuedResult:
    """What a run came to.

    Attributes:
        run: Which one.
        target: What `losses` are of.
        losses: On the target's validation split by optimizer step, nats per token.
        general: Mean loss over the domains' validation splits at the end; None if not evaluated.
    """

    run: ContinuedRun
    target: str
    losses: Mapping[int, float]
    general: float | None


_RESULTS = TypeAdapter(list[ContinuedResult])


def planned_stages(
    seeds: Sequence[int], rules: Sequence[str], targets: Sequence[str]
) -> tuple[list[ContinuedRun], list[ContinuedRun], list[ContinuedRun]]:
    """Return the runs of the three stages, of which each needs those before it."""
    base = [ContinuedRun("base", BASE, "", seed) for seed in seeds]
    continued = dict.fromkeys(
        ContinuedRun("continued", rule, "" if rule == BASELINE else target, seed)
        for seed in seeds
        for target in targets
        for rule in rules
    )
    tuned = [
        ContinuedRun("tuned", rule, target, seed)
        for seed in seeds
        for target in targets
        for rule in (BASE, *rules)
    ]
    return base, list(continued), tuned


def model_folder(seed: int) -> Path:
    """Return where the exported model of a seed is."""
    return ROOT / "continued" / "models" / f"base-{seed}"


def export_models(seeds: Sequence[int]) -> None:
    """Export the models of the first stage, those that are not there yet.

    Raises:
        MegadgaError: If `megadga export` fails; it has said why.
    """
    for seed in seeds:
        if (output := model_folder(seed)).exists():
            continue
        source = ContinuedRun("base", BASE, "", seed).run(()).folder
        command = [sys.executable, "-m", "megadga.cli", "export", str(source), str(output)]
        if status := subprocess.run(command, check=False).returncode:  # noqa: S603  (our own)
            raise MegadgaError(f"megadga export: expected it to end with 0, found {status}")


def finished_continued(
    planned: Sequence[ContinuedRun], targets: Sequence[str]
) -> list[ContinuedResult]:
    """Return the results of those runs that are finished, one for each target.

    Raises:
        ConfigError: If metrics cannot be read.
    """
    return [result for each in planned for result in _results(each, targets)]


def _results(each: ContinuedRun, targets: Sequence[str]) -> Iterator[ContinuedResult]:
    run = each.run(targets)
    if not is_finished(run):
        return
    evaluations = read_metrics(run.folder / "metrics.jsonl").of("evaluation")
    last = evaluations[-1]
    for target in last["specific"]:
        losses = {record["step"]: round(record["specific"][target], 4) for record in evaluations}
        general = None if each.stage == "tuned" else round(last["general"], 4)
        yield ContinuedResult(each, target, losses, general)


def write_continued(path: Path, results: Sequence[ContinuedResult]) -> None:
    """Write results as JSON, a line for each, in an order that depends on nothing else."""
    ordered = sorted(results, key=lambda r: (r.run.stage, r.target, r.run.rule, r.run.seed))
    write_list(path, [asdict(each) for each in ordered])


def read_continued(path: Path) -> list[ContinuedResult]:
    """Return the results in a file.

    Raises:
        ConfigError: If it is not one that `write_continued` wrote.
    """
    return read_list(path, _RESULTS)


def continued_table(results: Sequence[ContinuedResult]) -> str:
    """Return a table in Markdown, a line a target and rule: losses after both stages.

    In brackets what is gained over uniform weights with the same seeds. The first line of a target
    is the model that is continued.
    """
    rows: list[list[str]] = []
    for target in dict.fromkeys(result.target for result in results):
        of_target = [each for each in results if each.target == target]
        for rule in (BASE, *RULES):
            stage: Stage = "base" if rule == BASE else "continued"
            general = [
                each.general
                for each in of_target
                if (each.run.stage, each.run.rule) == (stage, rule) and each.general is not None
            ]
            if not general:
                continue
            trained, tuned = _shown(of_target, stage, rule), _shown(of_target, "tuned", rule)
            name = "before" if rule == BASE else f"`{rule}`"
            rows.append([f"`{target}`", name, trained, tuned, f"{mean(general):.3f}"])
    titles = ("target", "continued with", "after it", "after fine-tuning", "domains, after it")
    return markdown_table(titles, rows)


def _shown(results: Sequence[ContinuedResult], stage: Stage, rule: str) -> str:
    ends = _ends(results, stage, rule)
    if not ends:
        return ""
    shown = f"{mean(ends.values()):.3f}"
    uniform = _ends(results, stage, BASELINE)
    gain = mean_over_seeds([uniform[seed] - ends[seed] for seed in ends.keys() & uniform.keys()])
    return shown if gain is None or rule == BASELINE else f"{shown} ({gain})"


def _ends(results: Sequence[ContinuedResult], stage: Stage, rule: str) -> dict[int, float]:
    return {
        each.run.seed: last_loss(each.losses)
        for each in results
        if (each.run.stage, each.run.rule) == (stage, rule)
    }


def _specific(target: str) -> str:
    return f"{target}: {{path: {_shards(target)}}}"


def _shards(target: str) -> Path:
    return targets_root("all") / "specific" / target
