"""The cost model: what a step, a message and an update take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_STREAM = 0x73746570
"""Tells the draws of step times from other random numbers of the same seed."""

UPDATE_VECTORS, MEMORY_BYTES_PER_S, ITEM_BYTES = 7, 10e9, 4
"""An update by AdamW reads or writes so many vectors, at about the speed of a server's memory."""


@dataclass(frozen=True)
class Costs:
    """Seconds of everything that a job does.

    Attributes:
        step_s: processor seconds of a step of a worker that nothing slows down: a sample, of which
            each step draws one. What a job's ``--jitter`` and ``--straggler`` add is slept.
        latency_s: of a message.
        server_message_s: processor seconds of a server for a push, and again for its answer.
        worker_message_s: those of a worker for its push, and again for the answer.
        push_s_per_byte, pull_s_per_byte: processor seconds in which a worker moves what it pushes
            and pulls; where ranks share memory, a pull is a copy.
        apply_s: of an update of all parameters; K servers do a K-th each, at once.
        average_s: that averaging adds to it, for each gradient of more than one.
        cores: of a host, shared by its ranks; None where each rank has its own.
        hosts: over which the ranks are spread, one host after the other.
        slice_s: how long a rank keeps a core while others wait for one.
        mtbf_s: mean seconds between two failures of a worker; None if it never fails.
        restart_s: after which a worker that failed is back; None if it stays away.
    """

    step_s: tuple[float, ...] = (0.05,)
    latency_s: float = 20e-6
    server_message_s: float = 20e-6
    worker_message_s: float = 20e-6
    push_s_per_byte: float = 0.0
    pull_s_per_byte: float = 0.0
    apply_s: float = 0.0
    average_s: float = 0.0
    cores: int | None = None
    hosts: int = 1
    slice_s: float = 1.4e-3
    mtbf_s: float | None = None
    restart_s: float | None = None

    @property
    def mean_step_s(self) -> float:
        return sum(self.step_s) / len(self.step_s)

    def steps(self, worker: int, seed: int) -> Iterator[float]:
        """Yield the processor seconds of each step of a worker, counted from 0."""
        if len(self.step_s) == 1:
            while True:
                yield self.step_s[0]
        rng, sample = np.random.default_rng([seed, worker, _STREAM]), np.array(self.step_s)
        while True:
            yield from rng.choice(sample, 64).tolist()

    def __str__(self) -> str:
        failures, hosts = "", f" on each of {self.hosts} hosts" if self.hosts > 1 else ""
        if self.mtbf_s is not None:
            back = "never" if self.restart_s is None else f"after {self.restart_s:g} s"
            failures = f"; a worker fails every {self.mtbf_s:g} s and is back {back}"
        return (
            f"step {1e3 * self.mean_step_s:.4g} ms of a core, "
            f"{'unlimited' if self.cores is None else self.cores} cores{hosts}; message "
            f"{1e6 * self.latency_s:.4g} us, and {1e6 * self.server_message_s:.4g} us of a server, "
            f"{1e6 * self.worker_message_s:.4g} us of a worker; a push "
            f"{1e9 * self.push_s_per_byte:.3g} ns/byte, a pull {1e9 * self.pull_s_per_byte:.3g} "
            f"ns/byte; update {1e3 * self.apply_s:.4g} ms, averaging {1e3 * self.average_s:.4g} ms "
            f"per gradient{failures}"
        )

    def record(self) -> dict[str, Any]:
        """Return everything for JSON, the sample of step times by its size, mean and spread."""
        sample = np.array(self.step_s)
        step = {"samples": len(sample), "mean": float(sample.mean()), "std": float(sample.std())}
        return asdict(self) | {"step_s": step}


def usual_apply_s(parameters: int) -> float:
    """Return what an update of so many parameters takes where nothing better is known."""
    return parameters * UPDATE_VECTORS * ITEM_BYTES / MEMORY_BYTES_PER_S


def usual_average_s(apply_s: float) -> float:
    """Return what averaging takes for each gradient, from the vectors that it reads."""
    return apply_s / UPDATE_VECTORS
