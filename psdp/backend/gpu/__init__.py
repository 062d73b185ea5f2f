"""Kernels on NVIDIA GPUs: our own in CUDA, and what libraries do faster."""
