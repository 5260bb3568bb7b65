"""Writes the model of a run's checkpoint as a Hugging Face folder."""
