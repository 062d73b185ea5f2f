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
        "checkpoint_every", "keep_checkpoints", "resume", "threads", "transport", "device",
        "kernels", "log_every", "profile", "quiet", "corpus", "straggler", "jitter", "link_mbps",
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
    if given.get("resume") is None:
        return Config.from_flat(dict(given)).resolved(), None
    path = Path(given["resume"])
    manifest = read_manifest(find_checkpoint(path))
    values = dict(kept(manifest, "settings"), out=None, quiet=False)
    for name, value in given.items():
        if name not in CHANGEABLE and value != values.get(name, value):
            raise CheckpointError(
                f"{flag_of(name)} {value} differs from {values[name]} of the run in {path}; drop "
                "the flag to go on with that run, or start a new one without --resume"
            )
    return Config.from_flat(values | dict(given)).resolved(), manifest


def kept(manifest: Manifest, name: str) -> Any:
    """Return what a checkpoint says of its job under ``name`` (see :func:`identity_of`).

    Raises:
        CheckpointError: nothing; it was not written by a training job.
    """
    if name not in manifest.state:
        raise CheckpointError(
            f"{manifest.folder} does not say its {name}: it is no checkpoint of a training job"
        )
    return manifest.state[name]


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
    folder, workers = manifest.folder, kept(manifest, "workers")
    corpus_sha256 = kept(manifest, "corpus_sha256")
    if workers != len(job.workers):
        raise CheckpointError(
            f"{folder} is of a run with {workers} workers, this job has "
            f"{len(job.workers)}; start {workers + len(job.servers)} ranks"
        )
    if corpus_sha256 != corpus.sha256:
        raise CheckpointError(
            f"{folder} is of a run on a corpus with sha256 {corpus_sha256[:16]}..., "
            f"--corpus has {corpus.sha256[:16]}..."
        )
    if not job.table.same_layout(kept(manifest, "layout")):
        raise CheckpointError(f"{folder} holds other parameters than this version of psdp makes")
