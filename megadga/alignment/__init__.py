"""What it means to measure alignments; knows gradients and collectives by protocol only."""
