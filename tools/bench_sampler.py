"""Time how long planning a global batch takes, against the number of domains."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from megadga.console import run_program
from megadga.data.sampler import MixtureSampler


def time_plans(
    num_domains: int, batch_size: int, *, max_epochs: float | None, repeats: int
) -> list[float]:
    """Return the milliseconds that each of ``repeats`` consecutive plans took."""
    rng = np.random.default_rng(0)
    sizes = (2.0 ** rng.uniform(3, 20, num_domains)).astype(np.int64)
    sampler = MixtureSampler(sizes, global_batch_size=batch_size, seed=0, max_epochs=max_epochs)
    weights = rng.dirichlet(np.full(num_domains, 0.1))
    state, elapsed = sampler.init(), list[float]()
    for _ in range(repeats):
        start = time.perf_counter()
        state = sampler.plan(state, weights).state_after
        elapsed.append(1000.0 * (time.perf_counter() - start))
    return elapsed


def main() -> None:
    """Parse the command line, measure, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, nargs="+", default=[8, 64, 4096, 262_144])
    parser.add_argument("--batch-size", type=int, default=1024, help="sequences of a global batch")
    parser.add_argument("--repeats", type=int, default=50, help="plans to time for each row")
    parser.add_argument("--output", type=Path, default=Path("build/bench/sampler.json"))
    args = parser.parse_args()
    rows: list[dict[str, float | None]] = []
    titles = ("domains", "max epochs", "fastest ms", "median ms", "slowest ms")
    print("".join(f"{title:>12}" for title in titles))
    for num_domains in args.domains:
        for cap in (None, 1.0):
            elapsed = time_plans(
                num_domains, args.batch_size, max_epochs=cap, repeats=args.repeats
            )
            fastest, median, slowest = min(elapsed), float(np.median(elapsed)), max(elapsed)
            times = {"fastest_ms": fastest, "median_ms": median, "slowest_ms": slowest}
            rows.append({"domains": num_domains, "max_epochs": cap, **times})
            cells = "".join(f"{milliseconds:>12.2f}" for milliseconds in times.values())
            print(f"{num_domains:>12}{cap or 'none':>12}{cells}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"batch_size": args.batch_size, "repeats": args.repeats, "plans": rows}
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main)
