"""A rank's files of checkpoints: what its workers have for themselves, written in the background.

Rank 0 asks for what a worker had at a clock, by which it may be computing what comes after. So a
copy is kept of what it began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psdp.checkpoint import BackgroundWriter, CheckpointId, CheckpointStore, Inner
from psdp.errors import CheckpointError, NumericsError
from psdp.job import Job
from psdp.transport import Arrival, Endpoint, Lost
from psdp.transport import messages as m
from psdp.workers.hosted import Hosted

WRITE_S = 600.0
"""How long a rank that is done waits for its last files to be on disk."""

WRITES_AHEAD = 4
"""Files of each worker that may wait for the disk before a further one makes their rank wait."""

MOST_SAID = 300
"""Of characters that a reason has in a message."""

Told = m.WorkerSaved | m.WorkerUnsaved


@dataclass(eq=False)
class _Copy:
    """A copy, and how many files of it are being written."""

    inner: Inner = field(default_factory=Inner)
    writes: int = 0


class Saving:
    """Saves what the workers of a rank have for themselves.

    Args:
        hosted: these workers, by their numbers.
    """

    def __init__(
        self, job: Job, store: CheckpointStore, hosted: Mapping[int, Hosted], endpoint: Endpoint
    ) -> None:
        self._job = job
        self._store = store
        self._hosted = hosted
        self._endpoint = endpoint
        self._writer: BackgroundWriter[tuple[Told, _Copy]] = BackgroundWriter()
        self._begun: dict[int, _Copy] = {}
        """Of workers: what they had when they began what they did last."""
        self._spare: list[_Copy] = []
        self._untold = 0

    @property
    def busy(self) -> bool:
        """Whether rank 0 is to be told of something that is being written, or is on disk."""
        return self._untold > 0

    def begin(self, own: Hosted, clock: int) -> None:
        """A worker is about to change what it has, which is of so many gradients."""
        self.forget(own.worker)
        own.clock = clock
        self._begun[own.worker] = self._copy(own)
        own.clock = None

    def forget(self, worker: int) -> None:
        """What a worker had is not needed any more."""
        before = self._begun.pop(worker, None)
        if before is not None and not before.writes:
            self._spare.append(before)

    def heard(self, event: Arrival | Lost | None) -> Arrival | Lost | None:
        """Do what rank 0 asks of a rank, whatever that is at; tell it what has been written. Return
        what else happened."""
        for message, copy in self._writer.poll():
            self._done(message, copy)
        match event:
            case Arrival(peer, m.SaveWorker() as asked) if peer == self._job.leader:
                self.asked(asked)
                return None
        return event

    def asked(self, message: m.SaveWorker) -> None:
        """Start writing what rank 0 asks for, or tell it that this is not to be had."""
        worker, clock, version = message.worker, message.clock, message.version
        own, copy = self._hosted.get(worker), self._begun.get(worker)
        if copy is None or copy.inner.clock != clock:
            if own is None or own.clock != clock:
                why = "it has not begun yet" if copy is None else "it had gone on by then"
                self._tell(m.WorkerUnsaved(worker, version, why))
                return
            copy = self._copy(own)
        copy.writes += 1
        self._untold += 1
        at, written = CheckpointId(message.step, version), copy
        ahead = WRITES_AHEAD * len(self._hosted)
        self._writer.submit(lambda: (self._write(at, worker, written.inner), written), ahead)

    def close(self) -> None:
        """Wait until all is written, and tell rank 0.

        Raises:
            CheckpointError: that takes too long.
        """
        for message, copy in self._writer.close(WRITE_S):
            self._done(message, copy)

    def _copy(self, own: Hosted) -> _Copy:
        copy = self._spare.pop() if self._spare else _Copy()
        own.copy(copy.inner)
        return copy

    def _write(self, at: CheckpointId, worker: int, inner: Inner) -> Told:
        try:
            file = self._store.write_worker(at, worker, inner.tensors())
        except (CheckpointError, NumericsError) as error:
            return m.WorkerUnsaved(worker, at.version, str(error)[:MOST_SAID])
        return m.WorkerSaved(worker, at.version, file["bytes"], file["sha256"])

    def _tell(self, message: Told) -> None:
        self._endpoint.send(self._job.leader, message)

    def _done(self, message: Told, copy: _Copy) -> None:
        self._tell(message)
        copy.writes -= 1
        self._untold -= 1
        if not copy.writes and copy not in self._begun.values():
            self._spare.append(copy)
