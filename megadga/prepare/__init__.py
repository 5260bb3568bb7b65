"""From documents to shards: reading, tokenizing, shuffling, writing."""
