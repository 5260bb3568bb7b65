import pytest

from megadga.errors import ResumeError
from megadga.run_folder.checkpoints import (
    CheckpointHeader,
    latest_checkpoint,
    mark_latest,
    read_header,
    write_header,
)

IDENTITY = {"seed": 7, "model": {"type": "llama", "width": 3}, "names": ["a", "b"]}


def write(folder, identity=IDENTITY):
    folder.mkdir(parents=True, exist_ok=True)
    write_header(folder, CheckpointHeader(step=5, metrics_length=100, identity=identity, files={}))
    return folder


def test_a_header_round_trips_for_its_own_run(tmp_path):
    checkpoint = write(tmp_path / "step-00000005")

    header = read_header(checkpoint, identity=IDENTITY)

    assert (header.step, header.metrics_length) == (5, 100)
    assert [path.name for path in checkpoint.iterdir()] == ["megadga.json"]


def test_a_checkpoint_of_another_run_names_every_key_that_differs(tmp_path):
    checkpoint = write(tmp_path / "step-00000005")
    ours = {"seed": 7, "model": {"type": "llama", "width": 5, "depth": 1}, "names": ["a"]}

    with pytest.raises(ResumeError) as caught:
        read_header(checkpoint, identity=ours)

    assert str(caught.value) == (
        f"{checkpoint / 'megadga.json'}: belongs to another run: "
        "model.width: expected 3, found 5; "
        'names: expected ["a", "b"], found ["a"]; model.depth: expected nothing, found 1'
    )


def test_only_some_of_many_differences_are_named(tmp_path):
    checkpoint = write(tmp_path / "step-00000005", {str(key): 0 for key in range(1000)})

    with pytest.raises(ResumeError, match=r"; 7: expected 0, found 1; and 992 more$"):
        read_header(checkpoint, identity={str(key): 1 for key in range(1000)})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"steps": 1}', "3"])
def test_a_damaged_header_is_named(tmp_path, text):
    checkpoint = write(tmp_path / "step-00000005")
    (checkpoint / "megadga.json").write_text(text)

    with pytest.raises(ResumeError, match=r"megadga\.json: expected a checkpoint's header, found"):
        read_header(checkpoint, identity=IDENTITY)


def test_a_missing_header_is_named(tmp_path):
    with pytest.raises(ResumeError, match="found No such file or directory"):
        read_header(tmp_path, identity=IDENTITY)


def test_the_latest_checkpoint_is_the_one_that_was_marked(tmp_path):
    assert latest_checkpoint(tmp_path) is None

    mark_latest(write(tmp_path / "step-00000005"))
    write(tmp_path / "step-00000010")  # not marked: not known to be whole

    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000005"
