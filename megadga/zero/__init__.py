"""Alignment probes under DeepSpeed ZeRO: the only package that knows its internals."""
