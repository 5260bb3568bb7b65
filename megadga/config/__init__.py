"""Runs as YAML: frozen pydantic models, loading, overrides, errors with file and line."""
