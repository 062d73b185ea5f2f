"""A decoder-only Transformer: one layer a file, backward under forward, views of flat vectors.

Letters in shapes: B batch, T time, N = B * T tokens, C channels, H heads, D = C / H, V vocabulary.
"""
