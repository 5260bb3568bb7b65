"""Where the time and the memory of a training step go."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile

from alignment_bench.accounting import memory_rows
from alignment_bench.case import PROBES
from alignment_bench.tokens import write_tokens
from alignment_bench.workbench import Workbench, make_engine

from .environment import synchronize
from .setting import Deadline, Row, Setting

PRESET = "350m"


def profiling(setting: Setting, deadline: Deadline) -> Iterator[Row]:  # noqa: ARG001  (a stage)
    """Yield how busy the device is in a step, and each probe's memory; write the top kernels."""
    case = setting.case(
        PRESET,
        stage=2,
        precision="bf16",
        sequence_length=2048,
        micro_batch=2 if setting.quick else 8,
        accumulation=2,
    )
    folder = setting.scratch / "profiling"
    write_tokens(folder, case)
    bench = Workbench(case, folder, make_engine(case))
    for _ in range(2):
        bench.train()
    synchronize(setting)
    activities = [ProfilerActivity.CPU]
    if setting.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        bench.train()
        synchronize(setting)
    path = setting.output / f"profile-{PRESET}.txt"
    path.write_text(_table(profiler, setting))
    yield {"check": "profile", "model": PRESET, "file": path.name, **_busy(profiler, setting)}
    for row in memory_rows(bench, ("directional",) if setting.quick else PROBES):
        yield {"check": "memory", **row}
    bench.engine.destroy()


def _table(profiler: profile, setting: Setting) -> str:
    key = "self_cuda_time_total" if setting.device == "cuda" else "self_cpu_time_total"
    averages: Any = profiler.key_averages()
    return averages.table(sort_by=key, row_limit=40, max_name_column_width=80)


def _busy(profiler: profile, setting: Setting) -> Row:
    """Return how long kernels ran, from the first to the last, and the longest gaps between."""
    if setting.device == "cpu":
        return {}
    events: Any = profiler.events() or []
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == "CUDA"
    )
    busy, gaps = _union(spans)
    span = spans[-1][1] - spans[0][0] if spans else 0.0
    return {
        "kernels": len(spans),
        "span_ms": span / 1e3,
        "busy_ms": busy / 1e3,
        "busy_share": busy / span if span else None,
        "longest_gaps_ms": [gap / 1e3 for gap in sorted(gaps, reverse=True)[:10]],
    }


def _union(spans: Sequence[tuple[float, float]]) -> tuple[float, list[float]]:
    """Return the length of the union of sorted intervals, and of the gaps in it."""
    busy, gaps = 0.0, list[float]()
    end: float | None = None
    for start, stop in spans:
        if end is None or start > end:
            if end is not None:
                gaps.append(start - end)
            busy += stop - start
            end = stop
        elif stop > end:
            busy += stop - end
            end = stop
    return busy, gaps
