"""Write the tables of docs/scale.md: runs of 7B and 70B, and predictions of published runs.

Nothing is measured: the same commit writes the same tables. A test compares them with the page.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from megadga.accelerators import ACCELERATORS
from megadga.config.loading import load_config
from megadga.console import run_program, tool_parser
from megadga.planning.constants import assumed_constants
from megadga.planning.duration import Cluster
from megadga.planning.prediction import Prediction, fastest_that_fit, predict
from megadga.planning.reading import read_planned_run
from plan_bench.measured import read_measured_steps
from plan_bench.published import read_published

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
_GIB = 2**30
_H100 = ACCELERATORS["h100"]
_PROBES = {
    "in flight, rank 16 (default)": (),
    "in flight, rank 16, every step": ("mixing.interval=1",),
    "directional, rank 16": (
        "mixing.interval=100",
        "mixing.probe={type: directional, specific_sequences: 64, direction: {rank: 16}}",
    ),
    "directional, whole": (
        "mixing.interval=100",
        "mixing.probe={type: directional, specific_sequences: 64}",
    ),
    "sharded": (
        "mixing.interval=100",
        "mixing.probe={type: sharded, specific_sequences: 64}",
    ),
}


def predicted(name: str, devices: int, domains: int, overrides: Sequence[str] = ()) -> Prediction:
    """Return what a run of configs/scale comes to on H100s."""
    config = load_config(ROOT / "configs" / "scale" / f"{name}.yaml", overrides)
    run = read_planned_run(config, ranks=devices, num_domains=domains)
    return predict(run, _H100, Cluster(assumed_constants(_H100), _H100.devices_per_node))


def settings_table(name: str, devices: int) -> str:
    """Return the settings that fit, or come closest, with 64 domains."""
    config = load_config(ROOT / "configs" / "scale" / f"{name}.yaml")
    run = read_planned_run(config, ranks=devices, num_domains=64)
    cluster = Cluster(assumed_constants(_H100), _H100.devices_per_node)
    rows = [
        (
            each.run.workload.zero.stage,
            "yes" if each.run.workload.checkpointing else "no",
            each.run.workload.micro_batch,
            f"{each.memory.peak / _GIB:.0f}",
            "yes" if each.fits else "no",
            f"{each.step.total:.2f}",
            f"{each.utilisation:.1%}",
            f"{each.tokens_per_s:,.0f}",
            f"{each.days:.1f}",
        )
        for each in fastest_that_fit(run, _H100, cluster)
    ]
    header = (
        *("ZeRO", "checkpointing", "micro-batch", "GiB", "fits", "step, s", "MFU"),
        *("tokens/s", "days"),
    )
    return _markdown(header, rows)


def parts_table(name: str, devices: int) -> str:
    """Return what a rank holds, and what a step takes, under the run's own settings."""
    found = predicted(name, devices, 64)
    memory = {**found.memory.resident}
    for part, size in found.memory.parts.items():
        memory[f"{part}, for a time"] = size
    seconds = {
        "forward": found.step.forward,
        "backward": found.step.backward,
        "gradients into buckets": found.step.reduction,
        "optimizer": found.step.optimizer,
        "communication, exposed": found.step.exposed,
        "slowed by hidden communication": found.step.slowed,
    }
    rows = [(part, f"{size / _GIB:.2f} GiB") for part, size in memory.items()]
    rows.append(("at the most", f"{found.memory.peak / _GIB:.1f} GiB"))
    rows += [(part, f"{value:.3f} s") for part, value in seconds.items()]
    rows.append(("sent by a rank in a step", f"{found.step_sent / 1e9:,.0f} GB"))
    rows.append(("checkpoint", f"{found.checkpoint_bytes / 1e9:,.0f} GB"))
    rows.append(("written at 10 GB/s in", f"{found.checkpoint_s:.0f} s"))
    return _markdown((name, f"{devices} x H100"), rows)


def probes_table(name: str, devices: int) -> str:
    """Return what updates cost, by probe and number of domains."""
    rows: list[tuple[str, ...]] = []
    for probe, overrides in _PROBES.items():
        for domains in (64, 4096):
            found = predicted(name, devices, domains, overrides)
            measuring, update = found.run.measuring, found.update
            if measuring is None or update is None:
                raise ValueError(f"{name}: expected a rule that measures alignments, found none")
            rows.append(
                (
                    probe,
                    f"{domains:,}",
                    f"{measuring.interval}",
                    f"{update.total:.2f}",
                    f"{found.overhead:.2%}",
                    f"{found.memory.peak / _GIB:.0f}",
                    f"{found.update_sent / 1e9:,.1f}",
                    f"{found.evaluation_s:.0f}",
                )
            )
    header = (
        *("probe", "K", "T_r", "update, s", "of training", "GiB", "GB sent for a direction"),
        "evaluation, s",
    )
    return _markdown(header, rows)


def published_table() -> str:
    """Return predictions of published runs."""
    rows = [
        (
            each.values["source"],
            each.values["model"],
            f"{each.values['devices']} x {each.values['accelerator']}",
            each.values["sequence_length"],
            each.values["micro_batch"],
            "yes" if each.values["checkpointing"] else "no",
            f"{each.values['tokens_per_s']:,.0f}",
            f"{each.predicted:,.0f}",
            f"{each.ratio:.2f}",
            "fitted" if each.values["fitted"] else "",
        )
        for each in read_published(ROOT / "docs" / "scale" / "published.json")
    ]
    header = (
        *("source", "model", "devices", "S", "micro-batch", "checkpointing"),
        *("tokens/s and device", "predicted", "ratio", ""),
    )
    return _markdown(header, rows)


def measured_table() -> str:
    """Return predictions of steps that the GPU kit has timed."""
    rows = [
        (
            each.record,
            each.accelerator,
            each.row["model"],
            "yes" if each.row["compiled"] else "no",
            each.row["variant"],
            f"{each.row['step_s']:.3f}",
            f"{each.predicted_s:.3f}",
            f"{each.ratio:.2f}",
        )
        for each in read_measured_steps(ROOT / "docs" / "gpu")
    ]
    header = ("record", "device", "model", "compiled", "variant", "step, s", "predicted", "ratio")
    return _markdown(header, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "settings of 7B": lambda: settings_table("7b", 64),
    "parts of 7B": lambda: parts_table("7b", 64),
    "updates of 7B": lambda: probes_table("7b", 64),
    "settings of 70B": lambda: settings_table("70b", 512),
    "parts of 70B": lambda: parts_table("70b", 512),
    "updates of 70B": lambda: probes_table("70b", 512),
    "steps on a GPU": measured_table,
    "published runs": published_table,
}


def with_tables(page: str) -> str:
    """Return a page with its tables written anew.

    Raises:
        ValueError: If the page lacks one.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = f"{begin}{table()}\n{end}"
        page, found = pattern.subn(lambda _, text=text: text, page)
        if found != 1:
            raise ValueError(f"{PAGE}: expected one table {name!r}, found {found}")
    return page


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    """Write the page."""
    tool_parser(__doc__, "").parse_args()
    PAGE.write_text(with_tables(PAGE.read_text()))
    print(PAGE)


if __name__ == "__main__":
    run_program(main)
