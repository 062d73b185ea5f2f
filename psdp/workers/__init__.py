"""Ranks that compute: a replica of the model, its training between exchanges, and these."""
