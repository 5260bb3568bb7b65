import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.errors import ConfigError
from megadga.prepare.pipeline.corpus import corpus_of_files, plan_tasks
from megadga.prepare.pipeline.rejects import find_rejects
from megadga.prepare.pipeline.work_folder import TaskRecord, TaskReject, WorkFolder
from megadga.prepare.reading.documents import iterate_records
from megadga.prepare.reading.records import InvalidRecord, Keys, MaxBad, SpanEnd


@pytest.mark.parametrize(
    ("text", "max_bad"),
    [
        ("0", MaxBad(0)),
        ("100", MaxBad(100)),
        ("0.5%", MaxBad(None, 0.005)),
        ("100%", MaxBad(None, 1.0)),
    ],
)
def test_a_number_or_a_share_is_read(text, max_bad):
    assert MaxBad.parse(text) == max_bad
    assert str(max_bad) == text


@pytest.mark.parametrize("text", ["", "-1", "1.5", "%", "101%", "-1%", "nan%", "many", "1 %"])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match=r"max_bad: expected a number or a share such as 0\.1%"):
        MaxBad.parse(text)


def test_a_count_is_exceeded_as_soon_as_it_is_passed():
    assert not MaxBad(2).exceeded(2, 2, complete=False)
    assert MaxBad(2).exceeded(3, 100, complete=False)


def test_a_share_is_exceeded_only_once_all_is_known():
    tenth = MaxBad(None, 0.1)
    assert not tenth.exceeded(9, 10, complete=False)
    assert not tenth.exceeded(10, 100, complete=True)
    assert tenth.exceeded(11, 100, complete=True)


LINES = st.lists(st.sampled_from(['{"text": "good"}', "bad", "", "{}"]), max_size=30)


@given(LINES, st.integers(3, 60), st.sets(st.integers(0, 30)))
def test_lines_are_right_wherever_the_file_is_cut_and_whatever_is_finished(
    tmp_path_factory, lines, least, unfinished
):
    folder = tmp_path_factory.mktemp("rejects")
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines))
    work_folder = WorkFolder(folder / "work")
    (folder / "work" / "tasks").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megadga.prepare.pipeline.corpus.MIN_TASK_BYTES", least)
        tasks = plan_tasks(corpus_of_files([path], valid_fraction=0.0))
    records: dict[int, TaskRecord] = {}
    finished: list[range] = []
    for task in tasks:
        if task.number in unfinished:
            continue
        (part,) = task.parts
        *found, end = iterate_records(part.span, Keys())
        bad = [
            TaskReject(0, one.line, one.reason) for one in found if isinstance(one, InvalidRecord)
        ]
        assert isinstance(end, SpanEnd)
        records[task.number] = TaskRecord([], len(found), len(bad), [end.num_lines])
        work_folder.save_task(task.number, records[task.number], bad)
        finished.append(range(part.span.start, part.span.stop or path.stat().st_size))
    offsets = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    assert [reject.line for reject in find_rejects(tasks, records, work_folder)] == [
        number
        for number, (line, offset) in enumerate(zip(lines, offsets, strict=True), start=1)
        if line in ("bad", "{}") and any(offset in span for span in finished)
    ]
