"""What has gone into a shard's weights so far."""

from __future__ import annotations

from collections.abc import Mapping

from psdp.checkpoint import Snapshot
from psdp.job import Job
from psdp.protocol import Ranges, Work


class Progress:
    """Counts of what the weights of a shard were made of; all servers count alike.

    Args:
        snapshot: of a resumed run: where to go on from.

    Attributes:
        version: updates made.
        units: in them, and before the last of them.
        clocks: gradients of each worker in them.
        batches: in them, where rank 0 deals these out.
    """

    def __init__(self, job: Job, snapshot: Snapshot | None = None) -> None:
        self.version = 0
        self.units = 0
        self.clocks = dict.fromkeys(job.workers, 0)
        self.batches = Ranges() if snapshot is None else Ranges(snapshot.batches)
        if snapshot is not None:
            self.version, self.units = snapshot.version, snapshot.units
            self.clocks |= snapshot.clocks
        # A version that is evaluated after its step may not have been, if its run was cut off then.
        self.units_before = self.units - 1
        self._job = job

    def advance(self, version: int, works: Mapping[int, Work]) -> None:
        """An update was made, of what these workers pushed."""
        self.version, self.units_before = version, self.units
        for rank, work in works.items():
            self.units += work.units
            self.clocks[rank] = work.clocks.stop
            if self._job.deals:
                self.batches.add(work.batches)

    def ends(self, every: int) -> bool:
        """Say whether the last update ended a step that is a multiple of ``every``."""
        return self._job.due(every, self.units_before, self.units)

    @property
    def evaluation_due(self) -> bool:
        """Whether workers evaluate this version on the way."""
        job = self._job
        return job.task.validation_units > 0 and self.ends(job.config.run.eval_every)

    @property
    def checkpoint_due(self) -> bool:
        """Whether this version is saved on the way."""
        return self.ends(self._job.config.run.checkpoint_every)
