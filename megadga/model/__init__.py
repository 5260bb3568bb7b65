"""A Llama-shaped decoder."""
