import pytest

from megadga.prepare.tokenizers.sentence_piece import SentencePieceTokenizer
from megadga.prepare.training import train_tokenizer
from tests.support.texts import made_up_texts


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> SentencePieceTokenizer:
    prefix = tmp_path_factory.mktemp("tokenizer") / "small"
    return train_tokenizer(made_up_texts(200), vocab_size=400, prefix=prefix)
