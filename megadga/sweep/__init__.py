"""Sweeps: small runs of one configuration at many fixed mixtures, for laws and comparisons."""
