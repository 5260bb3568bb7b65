"""Domains without labels: texts embedded, clustered, assigned, and sets measured by cluster."""
