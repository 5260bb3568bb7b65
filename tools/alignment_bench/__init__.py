"""What bench_alignment.py is made of; measures megadga's probes on real DeepSpeed engines."""
