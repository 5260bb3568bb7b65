"""The embedded default: text found on this machine, prepared, trained on twice, compared."""
