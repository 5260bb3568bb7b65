"""What a run leaves in its output folder beside metrics: checkpoints, markers, a lock."""
