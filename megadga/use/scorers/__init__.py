"""Scorers of documents that need a trained model."""
