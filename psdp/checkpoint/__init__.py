"""What is kept of a run: weights and optimizer state in safetensors, the rest in JSON, no pickle.

    RUN/checkpoints/
        step-000100-v000250/                steps that were whole, and the version
            shard-00-of-02.safetensors      one per server: flat vectors (S,)
            shard-01-of-02.safetensors
            worker-0001.safetensors         one per worker that has something for itself: (P,)
            tokenizer.json                  of a tokenizer of subwords
            checkpoint.json                 manifest: state, sizes, sha256, digest
        best.json                           {"checkpoint": "step-000100-v000250"}

A folder appears whole, by one rename after everything in it reached the disk; until then its name
begins with .tmp- and no reader looks at it. No two versions share one. What is read back is
verified first. Copies at a URL are laid out alike; see elsewhere.py.
"""

from __future__ import annotations

from psdp.checkpoint.average import say_which_weights, tensor_of
from psdp.checkpoint.background import BackgroundWriter
from psdp.checkpoint.elsewhere import Copied, Elsewhere, Overtaken, newest_at, probe
from psdp.checkpoint.fetching import fetch_best, fetch_newest, fetch_one
from psdp.checkpoint.inner import Inner
from psdp.checkpoint.layout import CHECKPOINTS, CheckpointId, complete_checkpoints
from psdp.checkpoint.manifest import CheckpointFile, Manifest, read_manifest
from psdp.checkpoint.objects import Absent, Objects, answered
from psdp.checkpoint.read import (
    find_checkpoint,
    is_checkpoint,
    latest_of,
    read_attached,
    read_best,
    read_named,
    read_shard,
    read_span,
    read_weights,
    read_worker,
    run_of,
)
from psdp.checkpoint.snapshot import Snapshot
from psdp.checkpoint.store import CheckpointStore

__all__ = [
    "Absent",
    "BackgroundWriter",
    "CHECKPOINTS",
    "CheckpointFile",
    "CheckpointId",
    "CheckpointStore",
    "Copied",
    "Elsewhere",
    "Inner",
    "Manifest",
    "Objects",
    "Overtaken",
    "Snapshot",
    "answered",
    "fetch_best",
    "fetch_newest",
    "fetch_one",
    "find_checkpoint",
    "is_checkpoint",
    "complete_checkpoints",
    "latest_of",
    "newest_at",
    "probe",
    "read_attached",
    "read_best",
    "read_manifest",
    "read_named",
    "read_shard",
    "read_span",
    "read_weights",
    "read_worker",
    "run_of",
    "say_which_weights",
    "tensor_of",
]
