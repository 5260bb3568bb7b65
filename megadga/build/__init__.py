"""Composition root: a configuration becomes objects here."""
