"""Writes the model of a run's checkpoint as a Hugging Face folder.

What it offers is imported when it is asked for: a tokenizer is found without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megadga.export.folder import Exported, ExportOptions, export_run

__all__ = ["ExportOptions", "Exported", "export_run"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'megadga.export' has no attribute {name!r}")
    return getattr(import_module("megadga.export.folder"), name)
