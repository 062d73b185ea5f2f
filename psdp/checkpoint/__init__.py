"""What is kept of a run: weights and optimizer state in safetensors, the rest in JSON, no pickle.

    RUN/checkpoints/step-000100/shard-00-of-02.safetensors   one per server: flat vectors (S,)
                                shard-01-of-02.safetensors
                                checkpoint.json              manifest: state, sizes, sha256, digest
    RUN/checkpoints/best.json                                {"step": 100}

A step folder appears whole, by one rename after everything in it reached the disk; until then it
is called .tmp-step-000100 and no reader looks at it. What is read back is verified first.
"""

from __future__ import annotations

from psdp.checkpoint.background import BackgroundWriter
from psdp.checkpoint.manifest import Manifest, ShardFile, read_manifest
from psdp.checkpoint.read import (
    find_checkpoint,
    read_named,
    read_shard,
    read_span,
    read_weights,
    run_of,
)
from psdp.checkpoint.snapshot import Snapshot
from psdp.checkpoint.store import CheckpointStore

__all__ = [
    "BackgroundWriter",
    "CheckpointStore",
    "Manifest",
    "ShardFile",
    "Snapshot",
    "find_checkpoint",
    "read_manifest",
    "read_named",
    "read_shard",
    "read_span",
    "read_weights",
    "run_of",
]
