"""On this machine's own text: what the demo rests on."""

import threading
from itertools import chain
from pathlib import Path

import pytest

from megadga.demo.harvest import (
    MIN_CHARACTERS,
    MIN_DOMAINS,
    SOURCES,
    VALID_CHARACTERS,
    SizeLimits,
    harvest,
    language_reference,
    python_code,
    word_ngrams,
)


@pytest.fixture(scope="module")
def corpus():
    return harvest(lambda _: None)


def runs_of(documents):
    return set(chain.from_iterable(map(word_ngrams, documents)))


def test_this_machine_has_enough_domains_of_enough_text(corpus):
    assert len(corpus.domains) >= MIN_DOMAINS
    for documents in corpus.domains.values():
        assert MIN_CHARACTERS <= sum(map(len, documents)) <= SizeLimits.domain
        assert all(0 < len(document) <= SizeLimits.document for document in documents)


def test_domains_share_no_text_with_the_specific_set(corpus):
    specific = runs_of([*corpus.specific_train, *corpus.specific_valid])
    for documents in corpus.domains.values():
        assert specific.isdisjoint(runs_of(documents))


def test_held_out_topics_share_no_text_with_the_others(corpus):
    assert runs_of(corpus.specific_train).isdisjoint(runs_of(corpus.specific_valid))
    assert sum(map(len, corpus.specific_valid)) >= VALID_CHARACTERS
    assert sum(map(len, corpus.specific_train)) >= 2 * VALID_CHARACTERS


def test_the_specific_set_is_the_language_reference(corpus):
    assert (corpus.specific_train, corpus.specific_valid) == language_reference()
    documents = (*corpus.specific_train, *corpus.specific_valid)
    assert any(document.startswith('The "pass" statement') for document in documents)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_files_come_in_the_same_order_again(source):
    first, second = source.files(), source.files()
    for _ in range(3):
        assert next(first, None) == next(second, None)


def test_code_comes_without_its_docstrings():
    assert (
        "Return a list of all Thread objects currently alive"
        in Path(threading.__file__).read_text()
    )
    modules = [text for text in python_code() if "def current_thread():" in text]
    assert len(modules) == 1
    assert "Return a list of all Thread objects" not in modules[0]
