"""Indexed binary shards (Megatron's .bin/.idx), domains, sampling and the batch reader."""
