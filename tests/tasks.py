"""Tasks for tests that are about something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psdp.config import Config
from psdp.job import Job
from psdp.language import Language


def untold(config: Config, vocab_size: int) -> Language:
    """Return the task of these settings, on a corpus of nothing: its model is what counts."""
    data, tokens = replace(config.data, val_fraction=0.0), np.zeros(10_000, np.uint8)
    return Language(replace(config, data=data), vocab_size, tokens, tokens[:0])


def job_and_task(config: Config, world_size: int, vocab_size: int) -> tuple[Job, Language]:
    """Return a job of these settings, and its task, on a corpus of nothing."""
    task = untold(config, vocab_size)
    return Job(config, world_size, task.table), task
