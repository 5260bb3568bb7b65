"""Says in words what is in domains: their most distinctive words, and examples of documents."""
