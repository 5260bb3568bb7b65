"""Plots of a finished or running run, from its metrics file."""
