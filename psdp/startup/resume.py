"""Going on from a checkpoint: what it says of its job, and whether this job is the same one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psdp.checkpoint import Manifest, find_checkpoint, read_manifest
from psdp.config import Config, flag_of
from psdp.data.corpus import Corpus
from psdp.errors import CheckpointError
from psdp.job import Job

CHANGEABLE = frozenset(
    {
        "max_steps", "eval_every", "eval_batches", "early_stop_patience", "out",
        "checkpoint_every", "keep_checkpoints", "resume", "threads", "device", "log_every",
        "quiet", "corpus",
    }
)  # fmt: skip
"""Settings that a resumed run may change; all others decide what its weights become."""


def settle(given: Mapping[str, Any]) -> tuple[Config, Manifest | None]:
    """Return the resolved settings and, for a resumed run, the checkpoint to go on from.

    Raises:
        ConfigError: the settings are impossible or contradict one another.
        CheckpointError: there is no such checkpoint, it is damaged, or it is of a run with other
            settings than ``given``.
    """
    if not given.get("resume"):
        return Config.from_flat(dict(given)).resolved(), None
    path = Path(given["resume"])
    manifest = read_manifest(find_checkpoint(path))
    values = dict(manifest.state["settings"], out=None, quiet=False)
    for name, value in given.items():
        if name not in CHANGEABLE and value != values[name]:
            raise CheckpointError(
                f"{flag_of(name)} {value} differs from {values[name]} of the run in {path}; drop "
                "the flag to go on with that run, or start a new one without --resume"
            )
    return Config.from_flat(values | dict(given)).resolved(), manifest


def identity_of(job: Job, corpus: Corpus) -> dict[str, Any]:
    """Return what a checkpoint says of its job; with the weights, all that generate needs."""
    return {
        "settings": job.config.flat(),
        "workers": len(job.workers),
        "vocab_size": corpus.vocab_size,
        "tokenizer": corpus.tokenizer.to_json(),
        "corpus_sha256": corpus.sha256,
        "layout": job.table.index(),
    }


def check_resumable(job: Job, corpus: Corpus, manifest: Manifest) -> None:
    """
    Raises:
        CheckpointError: the checkpoint is of another job; the text says what differs.
    """
    state, folder = manifest.state, manifest.folder
    if state["workers"] != len(job.workers):
        raise CheckpointError(
            f"{folder} is of a run with {state['workers']} workers, this job has "
            f"{len(job.workers)}; start {state['workers'] + len(job.servers)} ranks"
        )
    if state["corpus_sha256"] != corpus.sha256:
        raise CheckpointError(
            f"{folder} is of a run on a corpus with sha256 {state['corpus_sha256'][:16]}..., "
            f"--corpus has {corpus.sha256[:16]}..."
        )
    if not job.table.same_layout(state["layout"]):
        raise CheckpointError(f"{folder} holds other parameters than this version of psdp makes")
