"""How alignments are measured on a DeepSpeed engine: the only package that knows its internals."""
