import json

import pytest
import torch
import torch.distributed as dist

from megadga.probes.collective import ProcessGroupCollective
from tests.support.jobs import run_tool
from tools.alignment_bench.bars import verdicts
from tools.alignment_bench.case import Case, Row, Section, llama_shape
from tools.alignment_bench.storages import LiveStorages
from tools.alignment_bench.tables import merged, table
from tools.alignment_bench.traffic import Traffic

TOOL = "bench_alignment"
LABELS = {"model": "m", "ranks": 2, "precision": "fp32"}


def test_a_storage_counts_once_and_while_it_lives():
    with LiveStorages() as storages:
        first = torch.zeros(100)
        views = [first.view(10, 10), first[50:], first.detach()]
        assert storages.live == 400
        second = first + 1.0
        assert storages.live == 800
        del first, views
        assert storages.live == 400
        del second
        assert storages.live == 0
    assert storages.peak == 800


def test_what_was_there_before_counts_nothing():
    parameter = torch.ones(100, requires_grad=True)
    with LiveStorages() as storages:
        parameter.detach().view(10, 10).mul_(2.0)
        assert storages.live == 0
        loss = (parameter * 3.0).sum()
        loss.backward()
        del loss
        assert storages.live == parameter.nbytes  # its gradient


def test_a_storage_that_grows_counts_what_it_has_grown_to():
    with LiveStorages() as storages:
        tensor = torch.empty(0)
        tensor.resize_(25)
        assert storages.live == 100
        tensor.resize_(0)
        tensor.untyped_storage().resize_(0)
        tensor.fill_(0.0)
        assert storages.live == 0
    assert storages.peak == 100


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_count_their_larger_side_and_who_called(one_rank):
    collective = ProcessGroupCollective(None, torch.device("cpu"))
    with Traffic() as traffic:
        collective.reduce_scatter(torch.zeros(1, 30))
        collective.all_gather(torch.zeros(7))
        dist.all_reduce(torch.zeros(5, dtype=torch.float64))
        torch.zeros(1000).add_(1.0)
    assert dict(traffic.own) == {"reduce_scatter_base": 120, "allgather_base": 28}
    assert dict(traffic.others) == {"allreduce": 40}


def test_a_case_survives_the_way_to_its_processes():
    case = Case(
        sections=("cost", "memory"), ranks=2, stage=3, precision="bf16",
        shape=llama_shape(128, 2), model="m", vocabulary_size=64, sequence_length=8,
        micro_batch=2, accumulation=3, rank=4, rounds=1, num_domains=(2, 4), total_sequences=8,
    )  # fmt: skip
    assert Case.from_json(case.to_json()) == case
    assert case.global_batch == 12


def test_bars_are_met_or_missed_by_the_worst_row():
    memory = [
        {**LABELS, "stage": stage, "probe": "directional", "extra_in_parameters": extra}
        for stage, extra in ((0, -0.5), (3, 1.5))
    ]
    cost = [
        {**LABELS, "stage": 3, "probe": "directional", "ratio": 1.15},
        {**LABELS, "stage": 3, "probe": "sharded", "ratio": 1.25},
    ]
    found = verdicts({"cost": cost, "memory": memory, "communication": [], "domains": []})
    assert [(bar["found"], bar["met"]) for bar in found] == [
        (1.15, True),
        (pytest.approx(0.92), True),
        (1.5, False),
    ]


def test_sections_of_one_probe_are_one_row():
    of_probe = {**LABELS, "stage": 0, "probe": "sharded"}
    rows: dict[Section, list[Row]] = {
        "cost": [of_probe | {"ratio": 1.5}],
        "memory": [of_probe | {"peak_bytes": 1000}],
        "communication": [],
    }
    (row,) = merged(rows)
    assert (row["ratio"], row["peak_bytes"]) == (1.5, 1000)
    assert table([row], ["probe", "ratio", "peak_bytes", "missing"]).splitlines() == [
        "  probe  ratio  peak bytes  missing",
        "sharded  1.500       1,000",
    ]


def test_without_a_cuda_device_nothing_is_measured(tmp_path):
    output = tmp_path / "alignment.json"
    done = run_tool(TOOL, tmp_path, "--gpu", "--output", output, CUDA_VISIBLE_DEVICES="")
    assert done.code == 0
    assert done.text.startswith("skipped: needs a CUDA device")
    assert not output.exists()


def test_the_numbers_are_printed_and_written(tmp_path):
    output = tmp_path / "bench" / "alignment.json"
    sizes = {"ranks": 2, "stages": 2, "width": 64, "layers": 1, "vocab-size": 128}
    sizes |= {"sequence-length": 16, "micro-batch": 1, "rank": 2, "rounds": 1}
    options = [text for key, size in sizes.items() for text in (f"--{key}", str(size))]
    done = run_tool(
        TOOL, tmp_path, *options, "--only", "cost", "communication", "--output", output
    )
    assert done.code == 0, done.text
    found = json.loads(output.read_text())
    sharded = next(row for row in found["rows"] if row["probe"] == "sharded")
    assert sharded["ratio"] > 0.0 < sharded["seconds_per_probe_sequence"]
    assert (
        sharded["communicated"]["reduce_scatter_base"] == sharded["expected_reduce_scatter_bytes"]
    )
    assert len(found["rows"]) == 8
    assert all(bar["bar"] in done.text for bar in found["bars"])
