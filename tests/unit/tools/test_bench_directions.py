import json

from tests.support.jobs import run_tool
from tests.support.shards import write_sets

TOOL = "bench_directions"
SIZES = {
    "steps": 6,
    "interval": 2,
    "width": 64,
    "layers": 1,
    "sequence-length": 8,
    "batch": 4,
    "sequences-per-domain": 3,
    "specific-sequences": 4,
}


def test_a_run_is_measured_printed_written_and_drawn(tmp_path):
    sets = write_sets(tmp_path, num_domains=3)
    sizes = [text for key, size in SIZES.items() for text in (f"--{key}", size)]
    shards = ("--domains", sets / "domains", "--specific", sets / "specific")

    done = run_tool(TOOL, tmp_path, *shards, *sizes, "--output", tmp_path / "bench")

    assert done.code == 0, done.text
    assert (tmp_path / "bench" / "directions.md").read_text() in done.text
    assert (tmp_path / "bench" / "directions.png").stat().st_size > 0
    found = json.loads((tmp_path / "bench" / "directions.json").read_text())
    assert [update["step"] for update in found["updates"]] == [2, 4, 6]
    others = [update["others"] for update in found["updates"]]
    ages = [sum(name.startswith("age ") for name in each) for each in others]
    assert ages == [2, 3, 4]  # 0 and 1, then 2 (measured at step 2), then 5 (at step 1)
    for update in found["updates"]:
        low, high = (update["kept"][f"rank {rank}"]["energy"] for rank in (1, 32))
        assert 0.0 < low < high <= 1.0 + 1e-6
        assert update["kept"]["rank 64"]["numbers"] == 1.0  # every matrix is so small
    weights = found["averaged_weights"]
    assert set(map(len, weights.values())) == {3}
    assert weights["rank 64"] != weights["rank 1"]


def test_domains_without_a_specific_set_are_refused(tmp_path):
    done = run_tool(TOOL, tmp_path, "--domains", tmp_path)

    assert done.code == 2
    assert "expected --domains and --specific or neither" in done.text
