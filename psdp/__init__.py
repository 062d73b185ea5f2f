"""psdp: an MPI parameter server that trains Transformer language models."""

__version__ = "0.2.0.dev0"
