"""How a run gets its ranks, how it is stopped and found again, and how it is launched.

Knows neither torch nor DeepSpeed: everything here is decided before they are imported.
"""
