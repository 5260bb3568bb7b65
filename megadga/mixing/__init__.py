"""Schedulers: pure numpy algorithms that move the domain weights."""
