"""From a command line to the processes of a run, one kind of cluster a file. Knows no training.

Each kind is a pure function from a `Request` to `Command` values or a text, and a short ``main``.
"""
