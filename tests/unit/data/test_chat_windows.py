"""Windows of training domains of dialogues: of a stream, with targets in trained spans alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.domain import Domain, TrainedWindows, trains_all_tokens
from megadga.data.folder import DomainSource, open_domains, open_split, read_folders
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import (
    Bounds,
    Grouping,
    Manifest,
    read_manifest,
    write_grouping,
    write_manifest,
)
from megadga.data.reader import count_targets, read_windows
from megadga.data.sampler import Selection
from megadga.data.targets import INPUT_ONLY, mark_targets
from megadga.errors import ShardError
from tests.support.streams import IDENTITY, counting_domain

Documents = list[list[bool]]
DOCUMENTS = st.lists(
    st.lists(st.booleans(), min_size=1, max_size=9) | st.lists(st.just(False), min_size=9),
    min_size=1,
    max_size=6,
)


def write_dialogues(folder: Path, shards: list[Documents]) -> Path:
    """Write shards of documents whose tokens count upwards, trained where they say."""
    folder.mkdir()
    entries, first = [], 0
    for number, documents in enumerate(shards):
        prefix = folder / f"train-{number:05d}"
        with ShardWriter(prefix, best_dtype(50_000), spans=True) as writer:
            for trained in documents:
                ids = np.arange(first, first + len(trained))
                writer.add_document(mark_targets(ids, np.array(trained)))
                first += len(trained)
        entries.append(writer.entry)
    write_manifest(folder, Manifest(folder.name, IDENTITY, {"train": tuple(entries)}))
    return folder


def open_chat_domains(folder: Path, length: int, *names: str) -> tuple[Domain, ...]:
    where = [DomainSource(name, folder / name) for name in names]
    return open_domains(where, split="train", sequence_length=length, chat=names)


@given(shards=st.lists(DOCUMENTS, min_size=1, max_size=3), length=st.integers(1, 7))
def test_sequences_are_the_windows_with_a_target_and_every_target_is_once_in_them(
    tmp_path_factory, shards, length
):
    folder = write_dialogues(tmp_path_factory.mktemp("chat") / "d", shards)
    trained = np.array([token for shard in shards for document in shard for token in document])
    folders = read_folders([DomainSource("d", folder)])
    opened = open_split(folders, split="train", sequence_length=length, chat={"d"})
    num_windows = (trained.size - 1) // length
    windows = [range(j * length, (j + 1) * length + 1) for j in range(num_windows)]
    with_target = [window for window in windows if trained[window.start + 1 : window.stop].any()]
    if not with_target:
        assert opened.domains == ()
        assert (list(opened.too_short) + list(opened.untrained)) == ["d"]
        return

    (domain,) = opened.domains
    every = np.arange(domain.num_sequences)
    tokens = domain.windows(every)

    assert domain.num_windows == num_windows
    assert np.where(tokens < 0, INPUT_ONLY - tokens, tokens).tolist() == list(
        map(list, with_target)
    )
    assert ((tokens >= 0) == trained[[list(window) for window in with_target]]).all()
    assert domain.num_targets(every).tolist() == (tokens[:, 1:] >= 0).sum(axis=1).tolist()
    targets = tokens[:, 1:][tokens[:, 1:] >= 0]
    assert targets.tolist() == [at for at in range(1, num_windows * length + 1) if trained[at]]
    assert domain.num_trained == trained.sum()
    assert domain.num_epoch_tokens == len(with_target) * length


@pytest.mark.parametrize(
    ("trained", "windows", "runs"),
    [
        ("x" + "." * 12, [], 0),  # the first token is no target
        ("." * 12 + "x", [2], 1),
        (".xxxx" * 3, [0, 1, 2], 1),
        ("." * 11 + "xx", [2], 1),
        ("..x.." + "...." + "...xx...", [0, 2, 3], 2),
        ("." * 4 + "xx" + "." * 7, [0, 1], 1),
    ],
)
def test_windows_with_targets_are_found_in_runs(trained, windows, runs, tmp_path):
    folder = write_dialogues(tmp_path / "d", [[[letter == "x" for letter in trained]]])
    if not windows:
        with pytest.raises(
            ShardError, match="d: split train: expected trained tokens in d, found"
        ):
            open_chat_domains(tmp_path, 4, "d")
        return
    (domain,) = open_chat_domains(tmp_path, 4, folder.name)
    assert domain.trained is not None
    assert domain.trained.windows(np.arange(len(domain.trained))).tolist() == windows
    assert domain.trained.firsts.size == runs


def test_domains_of_shared_shards_are_dialogues_or_not_each_by_itself(tmp_path):
    write_dialogues(tmp_path / "all", [[[True] * 6, [False] * 8 + [True] * 4], [[True] * 9]])
    bounds = {"train": Bounds(np.array([0, 6, 18, 27]), np.array([0, 1, 2, 3]))}
    manifest = read_manifest(tmp_path / "all")
    grouping = write_grouping(tmp_path / "all", Grouping(("a", "b", "c"), bounds))
    write_manifest(tmp_path / "all", Manifest("all", IDENTITY, manifest.splits, grouping=grouping))

    a, b, c = open_domains(tmp_path / "all", split="train", sequence_length=4, chat={"b", "c"})

    assert [trains_all_tokens(each) for each in (a, b, c)] == [True, False, False]
    assert a.windows(np.array([0])).tolist() == [[0, 1, 2, 3, 4]]
    assert b.windows(np.array([0])).tolist() == [[*(INPUT_ONLY - at for at in range(10, 14)), 14]]
    assert (b.num_windows, b.num_sequences, b.num_trained) == (2, 1, 4)
    assert (c.num_windows, c.num_sequences, c.num_trained) == (2, 2, 9)


def test_a_batch_of_texts_and_dialogues_is_read_and_counted_together(tmp_path):
    counting_domain(tmp_path / "text", [21], start=100)
    write_dialogues(tmp_path / "chat", [[[False] * 9 + [True] * 3 + [False] * 9]])
    where = [DomainSource(name, tmp_path / name) for name in ("text", "chat")]
    domains = open_domains(where, split="train", sequence_length=4, chat=["chat"])
    drawn = Selection(np.array([1, 0, 1]), np.array([0, 2, 0]))

    assert count_targets(domains, drawn).tolist() == [3, 4, 3]
    chat = [INPUT_ONLY - 8, 9, 10, 11, INPUT_ONLY - 12]
    assert read_windows(domains, drawn).tolist() == [chat, [108, 109, 110, 111, 112], chat]


def test_what_is_no_dialogue_is_refused(tmp_path):
    counting_domain(tmp_path / "text", [21])
    with pytest.raises(ShardError, match=r"train-00000\.spans: expected the trained spans of dia"):
        open_chat_domains(tmp_path, 4, "text")
    with pytest.raises(ValueError, match="chat: expected names of domains, found 'talk'"):
        open_domains(tmp_path, split="train", sequence_length=4, chat={"talk"})
    (text,) = open_domains(tmp_path, split="train", sequence_length=4)
    with pytest.raises(ValueError, match="expected windows with targets where the stream has"):
        Domain("d", text.stream, 0, 21, 1, 4, TrainedWindows(np.array([0]), np.array([0, 1])))
