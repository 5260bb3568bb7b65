"""From dialogues to shards and back, with the tools that their users have."""

import json
from pathlib import Path

import numpy as np
import pytest

from megadga.data.examples import open_chat
from megadga.data.folder import DomainSource
from megadga.data.manifest import read_manifest
from tests.support.dialogues import (
    EOD,
    assistant,
    made_up_dialogues,
    user,
    write_chat_tokenizer,
    write_dialogues,
)
from tests.support.tools import assert_refused, run_data


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with dialogues, a tokenizer and the shards of one set."""
    work = tmp_path_factory.mktemp("work")
    write_chat_tokenizer(work / "tok")
    write_dialogues(work / "help.train.jsonl", made_up_dialogues(30))
    write_dialogues(work / "help.valid.jsonl.gz", [[user("Why?"), assistant("Because é.")]])
    done = build(work, f"{work}/help.*", "shards")
    assert (done.returncode, done.stderr) == (0, "")
    (work / "built.txt").write_text(done.stdout)
    return work


def build(work: Path, inputs: str, output: str, *options: object, tokenizer: str = "tok"):
    return run_data(
        "build", "--chat", "--input", inputs, "--tokenizer", work / tokenizer, "--eod", EOD,
        "--output", work / output, "--workers", 1, *options,
    )  # fmt: skip


def test_a_build_counts_trained_tokens_and_says_which_they_are(work):
    header, train, valid = (work / "built.txt").read_text().splitlines()
    assert header.split() == ["domain", "split", "documents", "tokens", "trained", "tokenizer"]
    manifest = read_manifest(work / "shards" / "help")
    for line, split in ((train, "train"), (valid, "valid")):
        counts = (manifest.num_documents(split), manifest.num_tokens(split))
        trained = manifest.num_trained(split)
        assert trained is not None
        assert line.split()[2:5] == [f"{count:,}" for count in (*counts, trained)]
    source = DomainSource("help", work / "shards" / "help")
    chat = open_chat(source, split="train", sequence_length=64)
    assert chat.num_documents == 30
    assert chat.num_trained == manifest.num_trained("train")  # none of them begins a dialogue


def test_inspect_shows_a_dialogue_with_its_trained_parts(work):
    done = run_data(
        "inspect", work / "shards" / "help", "--decode", 0, "--split", "valid",
        "--tokenizer", work / "tok", "--eod", EOD,
    )  # fmt: skip
    header, *lines = done.stdout.splitlines()
    assert header.startswith("==> help: valid document 0, ")
    assert header.endswith(" trained, between >>> and <<<")
    assert lines == [
        "<|im_start|>user",
        "Why?<|im_end|>",
        "<|im_start|>assistant",
        ">>>Because é.<|im_end|><<<",
        EOD,
    ]


def test_verify_reads_every_file(work, tmp_path):
    done = run_data("verify", work / "shards", "--workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(", problems: 0\n")


def test_any_memory_and_number_of_workers_gives_the_same_bytes(work):
    done = build(work, f"{work}/help.*", "again", "--workers", 2, "--memory", 1)
    assert done.returncode == 0
    for path in (work / "shards" / "help").glob("*-0*"):
        assert (work / "again" / "help" / path.name).read_bytes() == path.read_bytes()
    assert np.fromfile(work / "shards/help/train-00000.spans", "<i8").size


def test_records_that_are_no_dialogues_are_listed_with_file_and_line(work):
    lines = write_dialogues(
        work / "mixed.jsonl",
        [
            [user("a"), assistant("b")],
            [user("a")],
            [user("a"), {"role": "bot", "content": "b"}],
            [user(f"a {EOD}"), assistant("b")],
        ],
    )
    refused = build(work, str(lines), "mixed", "--max-bad", 2)
    assert_refused(refused, f"{lines}:2: messages: expected an assistant's turn with text, found")
    done = build(work, str(lines), "mixed", "--max-bad", 3)
    assert done.returncode == 0
    (rejects,) = work.glob("mixed.rejects-*.jsonl")
    listed = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["line"], each["reason"].partition(":")[0]) for each in listed] == [
        (2, "messages"),
        (3, "messages[1].role"),
        (4, "messages"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--piece-tokens", 8), "chat: expected neither clusters nor piece_tokens with it"),
        (("--chat-template", "no.jinja"), "no.jinja: expected a chat template, found No such"),
        (("--text-key", "turns"), "help.train.jsonl:1: turns: expected an array of messages, "),
    ],
)
def test_options_that_do_not_fit_are_refused(work, options, message):
    assert_refused(build(work, f"{work}/help.*", "refused", *options), message)


def test_a_template_is_for_dialogues_alone(work):
    done = run_data(
        "build", "--input", f"{work}/help.*", "--tokenizer", work / "tok", "--eod", EOD,
        "--output", work / "refused", "--chat-template", "chatml",
    )  # fmt: skip
    assert_refused(done, "chat_template: expected chat with it, found none")
