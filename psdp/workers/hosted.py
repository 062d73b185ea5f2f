"""A worker that a rank computes for: its share of the data, and what it does between exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psdp.checkpoint import Inner
from psdp.job import Job
from psdp.modes import Pushed
from psdp.transport import messages as m
from psdp.workers.training import LocalTraining, Training


class Hosted:
    """A worker that this rank computes for.

    Args:
        box: from which of the replica's boxes its pushes leave.
        trainings: what it does between two exchanges, by what it pushes then.
        inner: what it had for itself when the run that is gone on with ended.

    Attributes:
        pushed: by which of them it made what is not answered yet, and as was ordered.
        clock: gradients that are in what it has for itself; None while it changes that, and of one
            that has begun nothing yet.

    Raises:
        CheckpointError: ``inner`` is of another kind of worker.
    """

    def __init__(
        self,
        job: Job,
        worker: int,
        box: int,
        trainings: Callable[[Hosted], Mapping[Pushed, Training]],
        inner: Inner | None = None,
    ) -> None:
        self.worker = worker
        self.number = job.slot_of(worker)
        self.share = job.share(worker)
        self.box = box
        self.pushed: tuple[Training, m.Train] | None = None
        self.trainings = trainings(self)
        self.clock: int | None = None
        if inner is not None:
            self._own().restore(inner)
            self.clock = inner.clock

    def copy(self, into: Inner) -> None:
        """Make ``into`` what this worker has for itself now."""
        assert self.clock is not None
        self._own().copy(into)
        into.clock = self.clock

    def _own(self) -> LocalTraining:
        """Return where it has something for itself."""
        (training,) = self.trainings.values()
        assert isinstance(training, LocalTraining)
        return training

    def crowd(self) -> None:
        """The replica computes for another worker too, from now on."""
        for training in self.trainings.values():
            training.crowd()

    def answered(self) -> m.Train | None:
        """An answer has landed in the replica's weights: make them what this worker goes on with;
        return what it was ordered to do before, if it pushed that."""
        pushed, self.pushed = self.pushed, None
        if pushed is None:
            for training in self.trainings.values():
                training.pulled()
            return None
        training, order = pushed
        training.merged()
        return order
