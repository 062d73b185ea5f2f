"""What workers have for themselves, on its way into checkpoints: rank 0 asks their ranks to write
it, and a checkpoint waits for them, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psdp.checkpoint import CheckpointId
from psdp.checkpoint.layout import worker_name
from psdp.job import Job
from psdp.protocol import Hosting
from psdp.transport import Endpoint
from psdp.transport import messages as m

WORKERS_S = 60.0
"""How long a checkpoint waits for what workers have for themselves."""

GONE, LATE = "its rank is gone", "its rank took too long"


@dataclass
class _Asked:
    """Of one checkpoint: the ranks that are still to answer for a worker, until when; the entries
    of files that are written; and why there are no others."""

    until_s: float
    awaited: dict[int, int] = field(default_factory=dict)
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)


class Gathering:
    """The files of workers in checkpoints under way, by version.

    Args:
        hosting: which rank computes for which worker.
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        hosting: Hosting,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeps = job.keeps_inner
        self._endpoint = endpoint
        self._hosting = hosting
        self._now = now
        self._gone: set[int] = set()
        self._asked: dict[int, _Asked] = {}

    def ask(self, at: CheckpointId, clocks: Mapping[int, int]) -> None:
        """Ask for what these workers had at these clocks, unless that is under way."""
        if at.version in self._asked:
            return
        asked = self._asked[at.version] = _Asked(self._now() + WORKERS_S)
        for worker, clock in clocks.items() if self._keeps else ():
            rank = self._hosting.host(worker)
            if rank is None or rank in self._gone:
                asked.missing[worker] = GONE
            else:
                asked.awaited[worker] = rank
                self._endpoint.send(rank, m.SaveWorker(worker, clock, at.step, at.version))

    def answered(self, rank: int, message: m.WorkerSaved | m.WorkerUnsaved) -> None:
        """Take a rank's answer for a worker, if it is waited for."""
        asked, worker = self._asked.get(message.version), message.worker
        if asked is None or asked.awaited.get(worker) != rank:
            return
        del asked.awaited[worker]
        match message:
            case m.WorkerSaved(file_bytes=size, sha256=sha256):
                name = worker_name(worker)
                asked.entries[worker] = {"name": name, "bytes": size, "sha256": sha256}
            case m.WorkerUnsaved(why=why):
                asked.missing[worker] = why

    def gone(self, rank: int) -> None:
        """Wait for a rank no more: it is done, or lost."""
        self._gone.add(rank)
        for asked in self._asked.values():
            own = {worker for worker, of in asked.awaited.items() if of == rank}
            _do_without(asked, own, GONE)

    def give_up(self, *, late_only: bool = False) -> None:
        """Wait no more for anyone, or for whoever has had his time."""
        for asked in self._asked.values():
            if not late_only or self._now() >= asked.until_s:
                _do_without(asked, set(asked.awaited), LATE)

    def complete(self, version: int) -> bool:
        """Say whether there is nothing more to wait for."""
        return not self._asked[version].awaited

    def take(self, version: int) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """Return the entries of the files of a version that is complete, by worker, and why there
        are no others; no more is known of it then."""
        asked = self._asked.pop(version)
        return asked.entries, asked.missing


def _do_without(asked: _Asked, workers: set[int], why: str) -> None:
    for worker in workers:
        del asked.awaited[worker]
        asked.missing[worker] = why
