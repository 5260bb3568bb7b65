from hypothesis import given
from hypothesis import strategies as st

from megadga.demo.harvest import (
    OVERLAP_WORDS,
    SizeLimits,
    deduplicate_paragraphs,
    hash_ordered,
    select_documents,
    split_documents,
    word_ngrams,
)


def sentence(first, count):
    return " ".join(f"word{number}" for number in range(first, first + count))


@given(text=st.text(alphabet="ab \n", max_size=200), size=st.integers(2, 50))
def test_documents_cover_a_text_except_white_space(text, size):
    documents = list(split_documents(text, size))
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(0 < len(document) <= size for document in documents)


def test_documents_end_with_a_line_where_one_ends_late_enough():
    assert list(split_documents("aaaa\nbb\ncccc", 8)) == ["aaaa\nbb\n", "cccc"]
    assert list(split_documents("a\nbbbbbbbbbb", 8)) == ["a\nbbbbbb", "bbbb"]


def test_runs_of_words_ignore_case_and_punctuation():
    text = sentence(0, OVERLAP_WORDS + 1)
    assert list(word_ngrams(text.upper().replace(" ", ", "))) == list(word_ngrams(text))
    assert len(list(word_ngrams(text))) == 2


def test_documents_with_a_run_of_words_to_avoid_are_excluded():
    excluded_ngrams = frozenset(word_ngrams(sentence(0, 20)))
    near, far = sentence(1, OVERLAP_WORDS - 1), sentence(100, 30)
    found = select_documents(
        [f"so {sentence(5, OVERLAP_WORDS)} goes", near, far],
        sizes=SizeLimits(),
        excluded_ngrams=excluded_ngrams,
    )
    assert found == [near, far]


def test_no_file_and_no_domain_is_larger_than_its_size():
    sizes = SizeLimits(domain=100, file=50, document=25)
    texts = ["a" * 80, "b" * 10, "c" * 80]
    found = select_documents(texts, sizes=sizes, excluded_ngrams=frozenset())
    assert found == ["a" * 25, "a" * 25, "b" * 10, "c" * 25]


def test_texts_are_read_no_further_than_needed():
    def texts():
        yield "a" * 10
        yield "b" * 10
        raise AssertionError("one text too many")

    sizes = SizeLimits(domain=15, file=10, document=10)
    assert select_documents(texts(), sizes=sizes, excluded_ngrams=frozenset()) == ["a" * 10]


@given(
    texts=st.lists(
        st.lists(st.integers(0, 30).map(lambda first: sentence(first, 7)), max_size=8).map(
            "\n\n".join
        ),
        max_size=4,
    )
)
def test_no_two_texts_share_a_run_of_words_in_the_end(texts):
    distinct = deduplicate_paragraphs(texts)
    runs = [run for text in distinct for run in word_ngrams(text)]
    assert len(distinct) == len(texts)
    assert len(runs) == len(set(runs))


def test_shared_paragraphs_stay_in_the_first_text():
    own, common = sentence(100, 20), sentence(0, 20)
    assert deduplicate_paragraphs([common, f"{own}\n\n{common}"]) == [common, own]


def test_the_order_of_names_does_not_depend_on_how_they_come():
    names = [f"file{number}.py" for number in range(20)]
    assert hash_ordered(names) == hash_ordered(reversed(names))
    assert hash_ordered(names) != names
