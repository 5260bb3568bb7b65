"""Writes small folders of real shards with made-up tokens."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from megadga.shards.manifest import TokenizerIdentity

VOCABULARY = 64
TOKENIZER = TokenizerIdentity(
    kind="sentencepiece", fingerprint="0" * 64, vocab_size=VOCABULARY, eod=2
)
