"""Sets of dialogues: shards with spans of trained tokens, and what is made of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from megadga.data.examples import Examples, open_chat, open_examples
from megadga.data.folder import DomainSource
from megadga.data.indexed import ShardWriter, best_dtype
from megadga.data.manifest import Manifest, read_manifest, write_manifest
from megadga.data.merge import merge_domains, read_merge_sources
from megadga.data.targets import INPUT_ONLY, PADDING, mark_targets, spans_path
from megadga.data.verify import plan_checks, verify_shard
from megadga.errors import ShardError
from tests.support.raw_shards import overwrite
from tests.support.streams import IDENTITY

# Which tokens of each dialogue are trained; tokens count from 0.
DIALOGUES = ("..xx", "...xx.x", ".x", "x.........x")


def write_chat(folder: Path, *, spans: bool = True, dialogues=DIALOGUES) -> Path:
    folder.mkdir()
    with ShardWriter(folder / "train-00000", best_dtype(50_000), spans=spans) as writer:
        first = 0
        for dialogue in dialogues:
            ids = np.arange(first, first + len(dialogue))
            trained = np.array([letter == "x" for letter in dialogue])
            writer.add_document(mark_targets(ids, trained) if spans else ids)
            first += len(dialogue)
    write_manifest(folder, Manifest(folder.name, IDENTITY, {"train": (writer.entry,)}))
    return folder


def open_set(folder, sequence_length=4, opened=open_chat) -> Examples:
    source = DomainSource("chat", folder)
    return opened(source, split="train", sequence_length=sequence_length)


def test_tokens_outside_of_trained_spans_are_inputs_and_no_targets(tmp_path):
    chat = open_set(write_chat(tmp_path / "d"))

    def said(*ids):
        return [INPUT_ONLY - token for token in ids]

    assert chat.windows(np.arange(chat.num_sequences)).tolist() == [
        [*said(0, 1), 2, 3, PADDING],
        [*said(4, 5, 6), 7, 8],
        [8, *said(9), 10, PADDING, PADDING],
        [*said(11), 12, PADDING, PADDING, PADDING],
        # Of the last dialogue, 13 to 23, the first two sequences have no target.
        [*said(21, 22), 23, PADDING, PADDING],
    ]
    assert chat.num_targets(np.arange(5)).tolist() == [2, 2, 1, 1, 1]
    assert (chat.num_left_out, chat.num_trained, chat.num_long) == (2, 7, 2)
    assert chat.has_spans


def test_the_shards_hold_plain_ids_for_every_other_reader(tmp_path):
    chat, plain = write_chat(tmp_path / "a"), write_chat(tmp_path / "b", spans=False)
    for name in ("train-00000.bin", "train-00000.idx"):
        assert (chat / name).read_bytes() == (plain / name).read_bytes()
    (entry,), (other,) = (read_manifest(each).splits["train"] for each in (chat, plain))
    assert (entry.trained_tokens, other.trained_tokens) == (8, None)
    examples = open_set(chat, opened=open_examples)
    assert examples.windows(np.arange(examples.num_sequences)).max() == 23
    assert not examples.has_spans


def test_a_set_without_spans_is_no_set_of_dialogues(tmp_path):
    folder = write_chat(tmp_path / "d", spans=False)
    with pytest.raises(ShardError, match=r"train-00000\.spans: expected the trained spans of dia"):
        open_set(folder)


def test_a_set_without_targets_is_refused(tmp_path):
    folder = write_chat(tmp_path / "d", dialogues=("x...", "...."))
    with pytest.raises(ShardError, match="expected trained tokens in chat, found none"):
        open_set(folder)


def test_merged_dialogues_keep_their_spans(tmp_path):
    folders = [write_chat(tmp_path / "a"), write_chat(tmp_path / "b", dialogues=(".x.x", "..x"))]
    merged = merge_domains(read_merge_sources(folders), tmp_path / "c", shard_tokens=8)
    assert merged.num_trained("train") == 8 + 3
    assert len(merged.splits["train"]) > 1
    expected = [row for each in folders for row in all_rows(open_set(each))]
    assert all_rows(open_set(tmp_path / "c")) == expected


def all_rows(chat: Examples) -> list[list[int]]:
    return chat.windows(np.arange(chat.num_sequences)).tolist()


def test_dialogues_and_texts_are_not_merged(tmp_path):
    folders = [write_chat(tmp_path / "a"), write_chat(tmp_path / "b", spans=False)]
    with pytest.raises(ShardError, match="b/train-00000: expected trained spans of its documents"):
        merge_domains(read_merge_sources(folders), tmp_path / "c")


def problems_of(folder: Path) -> list[str]:
    plan = plan_checks(folder)
    reports = [verify_shard(check) for check in plan.shards]
    found = [*plan.problems, *(line for report in reports for line in report.problems)]
    return [line.removeprefix(f"{folder}/train-00000.") for line in found]


def test_verification_reads_spans_too(tmp_path):
    folder = write_chat(tmp_path / "d")
    assert problems_of(folder) == []
    path, moved = spans_path(folder / "train-00000"), tmp_path / "moved"
    shutil.copy(path, moved)

    overwrite(path, 8, (5).to_bytes(8, "little"))  # the first ends in the second dialogue
    across, checksum, count = problems_of(folder)
    assert across == "spans: span 0: expected one inside a document, which ends at 4, found 2 to 5"
    assert count == "spans: trained_tokens: expected 8 by the manifest, found 9"
    assert checksum.startswith("spans: spans_sha256: expected ")

    overwrite(path, 8, (1).to_bytes(8, "little"))
    assert problems_of(folder)[0] == (
        "spans: span 0: expected 0 <= start < stop <= 24, found 2 and 1"
    )
    with pytest.raises(ShardError, match="span 0: expected 0 <= start < stop <= 24"):
        open_set(folder)

    path.unlink()
    assert problems_of(folder)[0].startswith("spans: expected trained spans, found No such file")
    shutil.move(moved, folder / "other.spans")
    assert any("other.spans: expected only files" in line for line in problems_of(folder))
