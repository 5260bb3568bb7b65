"""Writes the model of a run's checkpoint as a Hugging Face folder."""

from megadga.export.folder import Exported, ExportOptions, export_run

__all__ = ["ExportOptions", "Exported", "export_run"]
