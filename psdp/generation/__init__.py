"""Text from a checkpoint: the trained model, the choice of tokens, and the text they become.

Needs no MPI, and nothing here reads the command line or writes to stdout.
"""

from __future__ import annotations

from psdp.generation.model import (
    chosen_checkpoint,
    identity_of,
    load_model,
    load_trained,
    parameters_of,
)
from psdp.generation.sampling import Sampling
from psdp.generation.text import Context, continuation, continuations, until

__all__ = [
    "Context",
    "Sampling",
    "chosen_checkpoint",
    "continuation",
    "continuations",
    "identity_of",
    "load_model",
    "load_trained",
    "parameters_of",
    "until",
]
