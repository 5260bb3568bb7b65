"""Indexed binary shards (Megatron's .bin/.idx), domains over them, and the batch reader."""
