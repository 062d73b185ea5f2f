"""Ranks that hold a shard: what is kept of it, how it is updated, and what rank 0 does beyond."""
