import os
import shutil
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from megadga.train.data import open_data
from megadga.train.paths import check_output
from tests.support.runs import RUN, write_run
from tests.support.shards import write_sets

OF_DGA = "  type: dga\n  interval: 4\n  step_size: 0.5\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=2)


def complaints(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        open_data(load_config(Path("run.yaml"), overrides))
    return str(error.value).splitlines()


def test_all_folders_that_are_missing_are_reported_at_once_with_their_lines(folder):
    write_run(folder)
    shutil.rmtree(folder / "domains")
    (folder / "specific" / "manifest.json").unlink()
    assert complaints("data.specific.other={path: gone}") == [
        (
            "run.yaml:5: data.domains: expected a folder with one folder per domain, "
            "found none at domains"
        ),
        (
            "run.yaml:6: data.specific.target.path: expected a folder of shards, "
            "found no specific/manifest.json"
        ),
        "override 1: data.specific.other.path: expected a folder of shards, found none at gone",
    ]


def test_of_listed_domains_each_that_is_missing_is_reported(folder):
    write_run(folder)
    listed = "[{name: a, path: domains/d0}, {name: b, path: x}, {name: c, path: domains}]"
    assert complaints(f"data.domains={listed}") == [
        "override 1: data.domains.1.path: expected a folder of shards, found none at x",
        (
            "override 1: data.domains.2.path: expected a folder of shards, "
            "found no domains/manifest.json"
        ),
    ]


@pytest.mark.parametrize(
    ("mixing", "key", "expected"),
    [
        ("type: importance\n  histogram: h.json", "histogram", "a file"),
        ("type: schedule\n  csv: w.csv", "csv", "a file"),
        ("type: schedule\n  replay: {metrics: m.jsonl}", "replay.metrics", "a file"),
        ("type: doremi\n  reference: run", "reference", "the output folder of a run"),
        ("type: dga\n  interval: 4\n  step_size: 1\n  basis: b.npz", "basis", "a file"),
    ],
)
def test_what_the_mixture_reads_is_reported_beside_the_folders(folder, mixing, key, expected):
    write_run(folder, RUN.replace(OF_DGA, f"  {mixing}\n").replace("path: specific", "path: gone"))
    told = complaints()
    assert told[0] == (
        "run.yaml:6: data.specific.target.path: expected a folder of shards, found none at gone"
    )
    assert len(told) == 2
    assert f": mixing.{key}: expected {expected}, found none at " in told[1]
    assert told[1].startswith("run.yaml:")


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("run.yaml", "the file run.yaml"),
        ("domains/mine", "domains/mine"),
        ("domains", "domains"),
        ("./domains/../domains/x", "domains/x"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused(folder, output, found):
    config = load_config(write_run(folder), [f"output={output}"])
    with pytest.raises(ConfigError, match=r"^override 1: output: expected a folder") as error:
        check_output(config)
    assert str(error.value).endswith(f", found {found}")


def test_an_output_below_a_file_is_refused(folder):
    config = load_config(write_run(folder), ["output=run.yaml/deeper/still"])
    with pytest.raises(ConfigError, match=r"found the file /.*/run\.yaml$"):
        check_output(config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_in_a_folder_without_permission_is_refused(folder):
    (folder / "locked").mkdir(mode=0o500)
    config = load_config(write_run(folder), ["output=locked/out"])
    with pytest.raises(ConfigError, match="found no permission to write in"):
        check_output(config)


@pytest.mark.parametrize("output", ["new/folders/deep", "out", "domains2", "../beside"])
def test_an_output_that_can_be_made_is_not_made_yet(folder, output):
    check_output(load_config(write_run(folder), [f"output={output}"]))
    assert not Path(output).exists()
