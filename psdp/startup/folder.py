"""The run folder of this start, and what its config.json records."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import safetensors

import psdp
from psdp.checkpoint import Manifest, find_checkpoint, run_of
from psdp.config import Config
from psdp.data.corpus import Corpus
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.folder import RunFolder


def open_folder(config: Config, manifest: Manifest | None) -> RunFolder:
    """Return the run folder: a new one, or on a resume from its latest checkpoint the same one.

    Raises:
        ConfigError: ``--out`` holds something else.
    """
    out = config.run.out
    run = None if manifest is None else run_of(manifest.folder)
    if manifest is not None and run is not None:
        in_place = out is None or Path(out).resolve() == run.resolve()
        if in_place and find_checkpoint(run).resolve() == manifest.folder.resolve():
            return RunFolder(run)
        if in_place and out is not None:
            raise ConfigError(
                f"--out {out} holds checkpoints later than {manifest.folder.name}, which going on "
                "from there would overwrite; choose another folder"
            )
    if out is not None:
        folder = RunFolder(Path(out))
        folder.create()
        return folder
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run.mode}"
    for attempt in range(100):
        folder = RunFolder(Path("runs") / (stem if attempt == 0 else f"{stem}-{attempt}"))
        if not folder.path.exists():
            break
    folder.create()
    return folder


def config_record(
    job: Job,
    corpus: Corpus,
    folder: RunFolder,
    hosts: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[int, int]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what config.json says of a run.

    Args:
        places: local rank and threads of each rank.
        facts: ``mpi``, the library; ``transport``, how vectors go between servers and workers;
            ``kernels``, that each rank computes with.
    """
    return {
        "settings": job.config.flat() | {"out": str(folder.path)},
        "workers": len(job.workers),
        "servers": len(job.servers),
        "parameters": job.table.size,
        "hosts": [host["host"] for host in hosts],
        "transport": facts["transport"],
        "kernels": facts["kernels"],
        "threads": [threads for _, threads in places],
        "corpus": {
            "description": corpus.description,
            "sha256": corpus.sha256,
            "vocab_size": corpus.vocab_size,
            "train_tokens": int(corpus.train.size),
            "val_tokens": int(corpus.val.size),
            "files": list(corpus.sources),
        },
        "versions": {
            "psdp": psdp.__version__,
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "mpi": facts["mpi"],
            "msgpack": ".".join(map(str, msgpack.version)),
            "safetensors": safetensors.__version__,
        },
    }
