"""The text that a worker has the weights make which it evaluates, for rank 0 to show."""

from __future__ import annotations

import numpy as np

from psdp.errors import NumericsError
from psdp.job import Job
from psdp.transport import messages as m
from psdp.workers.exchange import Exchange
from psdp.workers.replica import Replica

STREAM = 0x74657874

PART = 200
"""Characters of a text in one message."""


def tell_sample(job: Job, replica: Replica, exchange: Exchange, order: m.Evaluate) -> None:
    """Tell rank 0 what text a version makes, whose weights the replica has."""
    rng = np.random.default_rng([job.config.run.seed, order.version, STREAM])
    text = ""
    try:
        for piece in job.task.sample(replica.backend, replica.own_weights, rng):
            exchange.look_up()
            text += piece
    except NumericsError:
        return  # they have diverged, as the losses show
    for start in range(0, len(text), PART):
        part = m.Sampled(order.worker, order.version, text[start : start + PART])
        exchange.endpoint.send(job.leader, part)
