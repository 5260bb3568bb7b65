"""From dialogues to tokens with marks: against transformers, and against their own text."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megadga.data.targets import unmark_targets
from megadga.errors import ConfigError
from megadga.prepare.chat.encoding import ChatEncoder
from megadga.prepare.chat.template import ChatTemplate
from megadga.prepare.reading.records import RecordError
from megadga.prepare.tokenizers.loading import load_tokenizer
from megadga.prepare.training import train_tokenizer
from tests.support.dialogues import (
    EOD,
    PLAIN_TEMPLATE,
    assistant,
    made_up_dialogues,
    user,
    write_chat_tokenizer,
)
from tests.support.texts import made_up_texts

MARKED_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
CUT_TEMPLATE = MARKED_TEMPLATE.replace(
    "m.content + '<|im_end|>' }}{% endgeneration %}",
    "m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
)
FORGETFUL_TEMPLATE = PLAIN_TEMPLATE.replace(
    "message.content", "(message.content if loop.last else 'said')"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("sentencepiece") / "small"
    train_tokenizer(made_up_texts(80), vocab_size=400, prefix=prefix)
    return prefix.with_suffix(".model")


def encoder_of(path, choice=None, eod: str | None = EOD) -> ChatEncoder:
    return ChatEncoder.load(load_tokenizer(path, eod=eod), path, choice)


def template_file(folder, source) -> str:
    path = folder / "template.jinja"
    path.write_text(source)
    return str(path)


def encode(encoder, messages):
    return unmark_targets(encoder.encode(json.dumps({"messages": messages})))


def trained_text(encoder, ids, trained) -> str:
    """What the trained tokens say, special tokens by name."""
    names = {token: name for name, token in encoder.tokenizer.special_tokens.items()}
    runs = np.split(ids[trained], np.flatnonzero(np.isin(ids[trained], list(names))) + 1)
    return "".join(
        encoder.tokenizer.decode(run) + names.get(int(run[-1]), "") for run in runs if run.size
    )


def test_tokens_and_marks_are_those_of_transformers(folder, tmp_path):
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  (slow to import)

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ours = encoder_of(folder, template_file(tmp_path, MARKED_TEMPLATE))
    for messages in made_up_dialogues(20):
        expected: Any = theirs.apply_chat_template(
            messages,
            chat_template=MARKED_TEMPLATE,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, trained = encode(ours, messages)
        assert ids.tolist() == [*expected["input_ids"], ours.tokenizer.identity.eod]
        assert trained.tolist() == [*map(bool, expected["assistant_masks"]), False]


def test_a_template_without_marks_gives_the_same_as_one_with_them(folder, tmp_path):
    plain = encoder_of(folder)
    others = (template_file(tmp_path, MARKED_TEMPLATE), "chatml")
    for messages in made_up_dialogues(10, seed=1):
        expected = [part.tolist() for part in encode(plain, messages)]
        for choice in others:
            found = encode(encoder_of(folder, choice), messages)
            assert [part.tolist() for part in found] == expected


WORDS = st.text(st.sampled_from('ab é中\n\t 🙂\\"{%'), max_size=8)


@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", ["huggingface", "sentencepiece"])
def test_trained_tokens_say_the_assistants_turns_and_nothing_else(
    folder, sentencepiece, kind, turns
):
    encoder = (
        encoder_of(folder) if kind == "huggingface" else encoder_of(sentencepiece, "chatml", None)
    )
    messages = [m for question, answer in turns for m in (user(question), assistant(answer))]

    ids, trained = encode(encoder, messages)

    expected = "".join(f"{answer}<|im_end|>" for _, answer in turns)
    assert trained_text(encoder, ids, trained) == expected
    assert ids[-1] == encoder.tokenizer.identity.eod
    assert not trained[-1]


def test_an_end_of_document_that_the_template_writes_is_not_written_twice(folder, tmp_path):
    source = MARKED_TEMPLATE.replace("<|im_end|>' }}{% endgen", "<|endoftext|>' }}{% endgen")
    encoder = encoder_of(folder, template_file(tmp_path, source.replace("{{ '\n' }}", "")))
    ids, trained = encode(encoder, [user("a"), assistant("b")])
    assert (ids == encoder.tokenizer.identity.eod).sum() == 1
    assert trained[-1]


def test_an_encoder_reaches_workers_as_it_is(folder):
    encoder = encoder_of(folder)
    again = pickle.loads(pickle.dumps(encoder))  # noqa: S301
    text = json.dumps({"messages": [user("a"), assistant("b")]})
    assert again.encode(text).tolist() == encoder.encode(text).tolist()


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (
            PLAIN_TEMPLATE,
            [user(f"say {EOD}"), assistant("no")],
            (
                "messages: expected text that spells no special token of the tokenizer, found "
                "'<|endoftext|>'"
            ),
        ),
        (
            FORGETFUL_TEMPLATE,
            [user("a"), assistant("b"), user("c"), assistant("d")],
            (
                "messages[1]: expected a chat template that renders the dialogue up to a turn as "
                "it does the whole one, found one that does not: mark the assistant's turns in it "
                "with {% generation %}"
            ),
        ),
        (
            "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
            + PLAIN_TEMPLATE,
            [{"role": "tool", "content": "a"}, assistant("b")],
            (
                "messages: expected a dialogue that the chat template renders, found "
                "TemplateError: no tools"
            ),
        ),
    ],
    ids=["special", "forgetful", "raises"],
)
def test_dialogues_that_cannot_be_encoded_are_refused(folder, source, messages, message):
    encoder = ChatEncoder(load_tokenizer(folder, eod=EOD), ChatTemplate("here", source, {}))
    with pytest.raises(RecordError) as caught:
        encode(encoder, messages)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for m in messages %}", "found TemplateSyntaxError: Unexpected end of template"),
        (CUT_TEMPLATE, "inside of {% generation %}, found '<|im_end|>' behind it"),
        ("{{ strftime_now('%Y') }}", "that renders the same text every day, found strftime_now"),
        ("{{ messages[0].content }}", "that renders the assistant's turn, found 'How much is 2"),
    ],
    ids=["syntax", "end of turn", "time", "no assistant"],
)
def test_templates_that_cannot_be_meant_are_refused_before_a_build(
    folder, tmp_path, source, message
):
    path = template_file(tmp_path, source)
    with pytest.raises(ConfigError) as caught:
        encoder_of(folder, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_tokenizer_without_a_template_needs_one_by_name(folder, sentencepiece, tmp_path):
    bare = write_chat_tokenizer(tmp_path / "bare", template=None)
    for path, eod in ((bare, EOD), (sentencepiece, None)):
        with pytest.raises(ConfigError, match=r"or chatml for the built-in one"):
            encoder_of(path, None, eod)
    (bare / "chat_template.jinja").write_text(PLAIN_TEMPLATE)
    assert encoder_of(bare).template.source == PLAIN_TEMPLATE
