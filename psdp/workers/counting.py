"""How many units of what workers train on count, which is what each gradient weighs."""

from __future__ import annotations

from psdp.job import Job
from psdp.task import Share


def counts(job: Job, share: Share, batch: int) -> list[int]:
    """Return how many units count of each part of a gradient, of which there are --grad-accum."""
    accum = job.config.run.grad_accum
    return [job.task.counted(share, part) for part in range(batch * accum, (batch + 1) * accum)]


def counted_by_all(job: Job, batch: int) -> int:
    """Return how many units count of the gradients that all workers compute of a batch."""
    return sum(sum(counts(job, job.share(worker), batch)) for worker in job.workers)
