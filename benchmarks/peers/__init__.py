"""Peers' pipelines of the same local models, for comparison in the same run; each runs in the peer's own environment."""
