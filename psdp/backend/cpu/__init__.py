"""Kernels on the processor: NumPy's, which are the reference, and compiled ones."""
