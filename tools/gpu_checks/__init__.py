"""The stages of gpu_check.py, and how they are run, recorded and reported."""
