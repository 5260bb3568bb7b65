"""What monitors write is read back: by TensorBoard itself, as CSV, from the files of services."""

import csv
import json
import math
import zipfile

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megadga.config.sections import CometSection, WandbSection
from megadga.errors import ResumeError
from megadga.train.monitors.comet import CometMonitor
from megadga.train.monitors.csv import CSV_FILE, CsvMonitor
from megadga.train.monitors.identity import MONITORS_FILE, ServiceIdentity
from megadga.train.monitors.tensorboard import TensorBoardMonitor
from megadga.train.monitors.wandb import WandbMonitor
from tests.support.wandb_files import offline_history, offline_runs


def write(monitor, *steps):
    for step in steps:
        monitor.write(step, {"train/loss": step / 3, "weights/my domain": 0.5})


def scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_what_was_written(tmp_path):
    monitor = TensorBoardMonitor(tmp_path, step=0)
    write(monitor, 1, 2)
    monitor.write(3, {"train/loss": math.nan})
    monitor.close()

    *finite, (step, value) = scalars(tmp_path, "train/loss")

    assert finite == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]
    assert step == 3
    assert math.isnan(value)
    assert scalars(tmp_path, "weights/my domain") == [(1, 0.5), (2, 0.5)]


def test_tensorboard_has_no_step_twice_after_a_return_and_a_resume(tmp_path):
    monitor = TensorBoardMonitor(tmp_path, step=0)
    write(monitor, 1, 2, 3)
    monitor.go_back(1)
    write(monitor, 2, 3, 4, 5)
    monitor.close()
    # Files are sorted by the second in their names.
    (file,) = tmp_path.iterdir()
    file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0")))
    resumed = TensorBoardMonitor(tmp_path, step=3)
    write(resumed, 4, 5, 6)
    resumed.close()

    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [1, 2, 3, 4, 5, 6]


def rows(folder):
    with (folder / CSV_FILE).open(newline="") as file:
        return [
            (int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)
        ]


def test_csv_has_every_number_exactly(tmp_path):
    monitor = CsvMonitor(tmp_path / "csv", step=0)
    monitor.write(1, {"train/loss": 1 / 3, 'weights/a, "b"': 0.1})

    assert rows(tmp_path / "csv") == [(1, "train/loss", 1 / 3), (1, 'weights/a, "b"', 0.1)]


def test_csv_has_no_step_twice_after_a_return_a_torn_line_and_a_resume(tmp_path):
    monitor = CsvMonitor(tmp_path, step=0)
    write(monitor, 1, 2, 3)
    monitor.go_back(2)
    write(monitor, 3, 4)
    with (tmp_path / CSV_FILE).open("a") as file:
        file.write("4,train/lo")
    resumed = CsvMonitor(tmp_path, step=3)
    write(resumed, 4)

    assert [step for step, name, _ in rows(tmp_path) if name == "train/loss"] == [1, 2, 3, 4]


def test_csv_of_another_run_is_not_gone_on_with(tmp_path):
    write(CsvMonitor(tmp_path, step=0), 1, 2)
    write(CsvMonitor(tmp_path, step=0), 1)

    assert len(rows(tmp_path)) == 2


def test_a_service_gets_every_step_once_and_a_resumed_run_keeps_its_name(tmp_path):
    first = ServiceIdentity(tmp_path, "wandb", step=0, abandoned=0)
    sent = [step for step in (1, 2, 3, 4) if first.is_new(step)]
    first.go_back()
    sent += [step for step in (3, 4, 5, 6) if first.is_new(step)]
    # Killed after step 6, it goes on after step 2; then again, killed after step 5.
    second = ServiceIdentity(tmp_path, "wandb", step=2, abandoned=6)
    sent += [step for step in (3, 4, 5) if second.is_new(step)]
    third = ServiceIdentity(tmp_path, "wandb", step=2, abandoned=5)
    sent += [step for step in range(3, 9) if third.is_new(step)]

    assert sent == [1, 2, 3, 4, 5, 6, 7, 8]
    assert first.id == second.id == third.id


def test_another_run_in_the_same_folder_has_another_name(tmp_path):
    first = ServiceIdentity(tmp_path, "wandb", step=0, abandoned=0)
    other = ServiceIdentity(tmp_path, "comet", step=0, abandoned=0)
    again = ServiceIdentity(tmp_path, "wandb", step=0, abandoned=99)

    assert len({first.id, other.id, again.id}) == 3
    assert again.is_new(1)
    assert ServiceIdentity(tmp_path, "comet", step=7, abandoned=7).id == other.id


def test_damaged_names_are_reported(tmp_path):
    (tmp_path / MONITORS_FILE).write_text("{")
    with pytest.raises(ResumeError, match=r"monitors.json: expected the run's names in services"):
        ServiceIdentity(tmp_path, "wandb", step=3, abandoned=0)


@pytest.mark.filterwarnings("ignore")
def test_files_of_weights_and_biases_have_the_numbers_and_the_configuration(tmp_path):
    section = WandbSection(project="mixing", name="first", group="seeds", offline=True)
    for start, abandoned, steps in ((0, 0, (1, 2, 3)), (2, 3, (3, 4))):
        identity = ServiceIdentity(tmp_path, "wandb", step=start, abandoned=abandoned)
        monitor = WandbMonitor(section, config={"seed": 17}, folder=tmp_path, identity=identity)
        write(monitor, *steps)
        monitor.close()

    wandb.teardown()  # its process has written all of it then
    history = offline_history(tmp_path)
    assert [entry["_step"] for entry in history] == [1, 2, 3, 4]
    assert [entry["train/loss"] for entry in history] == [step / 3 for step in (1, 2, 3, 4)]
    runs = offline_runs(tmp_path)
    assert {(run.project, run.display_name, run.run_group) for run in runs} == {
        ("mixing", "first", "seeds")
    }
    assert {run.run_id for run in runs} == {identity.id}
    assert {item.key: item.value_json for item in runs[0].config.update}["seed"] == "17"


@pytest.mark.filterwarnings("ignore")
def test_an_archive_of_comet_has_the_numbers_of_every_step(tmp_path):
    section = CometSection(project="mixing", offline=True)
    identity = ServiceIdentity(tmp_path, "comet", step=0, abandoned=0)
    monitor = CometMonitor(
        section, config={"seed": 17}, folder=tmp_path / "c", identity=identity, is_new=True
    )
    write(monitor, 1, 2)
    monitor.go_back(0)
    write(monitor, 1, 2, 3)
    monitor.close()

    with zipfile.ZipFile(tmp_path / "c" / f"{identity.id}.zip") as archive:
        lines = archive.read("messages.json").decode().splitlines()
    messages = [json.loads(line) for line in lines]
    metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
    losses = [(m["step"], m["metricValue"]) for m in metrics if m["metricName"] == "train/loss"]
    assert losses == [(step, step / 3) for step in (1, 2, 3)]
