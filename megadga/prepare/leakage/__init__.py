"""Held-out documents looked for where a model trains."""
