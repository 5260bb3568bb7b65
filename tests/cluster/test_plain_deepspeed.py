"""The example of somebody else's loop trains on two hosts, under DeepSpeed's own launcher."""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.environment import shell_environment, write_hostfile
from tests.cluster.hosts import Host
from tests.support.ranks import REPOSITORY
from tests.support.shards import write_sets

EXAMPLE = REPOSITORY / "docs" / "examples" / "plain_deepspeed.py"
# DeepSpeed forwards few variables by itself; these are in its own file for more.
FORWARDED = ("PATH", "TORCH_EXTENSIONS_DIR", "OMP_NUM_THREADS")


@pytest.mark.thorough
def test_the_example_trains_on_two_hosts_with_two_ranks_each(
    pair: tuple[Host, Host], tmp_path: Path
) -> None:
    shards = write_sets(tmp_path / "shards", num_domains=2)
    environment = shell_environment()
    settings = json.loads(EXAMPLE.with_suffix(".json").read_text())
    (tmp_path / "zero.json").write_text(json.dumps(settings))
    (tmp_path / ".deepspeed_env").write_text(
        "\n".join(f"{name}={environment[name]}" for name in FORWARDED)
    )
    launch = [
        str(Path(sys.executable).with_name("deepspeed")),
        f"--hostfile={write_hostfile(tmp_path / 'hostfile', pair)}",
        "--master_addr=192.0.2.1",
        str(EXAMPLE),
        *("--domains", str(shards / "domains"), "--specific", str(shards / "specific")),
        *("--deepspeed-config", "zero.json", "--sequence-length=8", "--steps=6"),
    ]
    with pair[0].start(*launch, env=environment, cwd=tmp_path) as job:
        done = job.wait(300)

    assert done.code == 0, done.text
    assert "h2: d1: " not in done.text  # the first rank prints, on the first host
    assert "h1: d1: " in done.text
    checkpoint = tmp_path / "runs" / "plain" / "global_step6"
    assert len(list(checkpoint.glob("*optim_states.pt"))) == 4
