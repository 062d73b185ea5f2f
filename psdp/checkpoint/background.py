"""One thread that writes checkpoints while the server goes on serving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from psdp.checkpoint.durable import writing
from psdp.errors import CheckpointError

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Run jobs one after the other on a daemon thread, which never keeps a dying process alive.

    There is room for one job: :meth:`submit` waits while another is unfinished, so a disk slower
    than the run slows it down instead of filling the memory with snapshots.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: Callable[[], T] | None = None  # submitted and not finished
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="psdp-checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether :meth:`submit` would wait."""
        return self._job is not None

    def submit(self, job: Callable[[], T]) -> None:
        """Start ``job`` as soon as the one before has finished; wait until then."""
        with self._changed:
            assert not self._closed, "submitted to a closed writer"
            self._changed.wait_for(lambda: self._job is None)
            self._job = job
            self._changed.notify_all()

    def poll(self) -> list[T]:
        """Return the results of the jobs finished since the last call, in order, without waiting.

        Raises:
            CheckpointError: a job met an OSError (a full disk, say) or raised it itself. Any
                other exception of a job is a bug and is raised as it is.
        """
        with self._changed:
            if self._errors:
                raise self._errors.pop(0)
            results, self._results = self._results, []
            return results

    def close(self, timeout_s: float) -> list[T]:
        """Wait for the unfinished job, end the thread, and return what :meth:`poll` would.

        Raises:
            CheckpointError: the job took longer than ``timeout_s``, or failed (see :meth:`poll`).
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._job is None, timeout_s):
                raise CheckpointError(
                    f"the last checkpoint was not written within {timeout_s} s; it is incomplete, "
                    f"earlier checkpoints are untouched"
                )
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        return self.poll()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._closed)
                if self._job is None:
                    return
            results: list[T] = []
            errors: list[BaseException] = []
            try:
                with writing("the checkpoint"):
                    results.append(self._job())
            except BaseException as error:  # raised again by poll, on the server's own thread
                errors.append(error)
            with self._changed:
                self._results += results
                self._errors += errors
                self._job = None
                self._changed.notify_all()
