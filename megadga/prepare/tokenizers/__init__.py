"""Tokenizers (sentencepiece, Hugging Face) behind one protocol, with round-trip checks."""
