"""One thread that writes checkpoints while the server goes on serving."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from psdp.checkpoint.durable import writing
from psdp.errors import CheckpointError
from psdp.processes import patiently

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """Run jobs one after the other on a daemon thread, which never keeps a dying process alive.

    Whoever hands it memory to write bounds how many jobs may be ahead (see :meth:`submit`), so a
    disk slower than the run slows it down instead of filling the memory with snapshots.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], T]] = deque()  # the first of them is being done
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="psdp-checkpoint", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job is unfinished."""
        return bool(self._jobs)

    def submit(self, job: Callable[[], T], ahead: int | None = None) -> None:
        """Do ``job`` after those before it. Wait until at most ``ahead`` are left of these."""
        with self._changed:
            assert not self._closed, "submitted to a closed writer"
            if ahead is not None:
                patiently(partial(self._changed.wait_for, lambda: len(self._jobs) <= ahead))
            self._jobs.append(job)
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

    def leave(self) -> None:
        """Let the thread end by itself after the jobs that it has; nobody wants their results."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self, timeout_s: float) -> list[T]:
        """Wait for the unfinished jobs, end the thread, and return what :meth:`poll` would.

        Raises:
            CheckpointError: they took longer than ``timeout_s``, or one failed (see :meth:`poll`).
        """
        with self._changed:
            done = partial(self._changed.wait_for, lambda: not self._jobs)
            if not patiently(done, timeout_s):
                raise CheckpointError(
                    f"the last checkpoint was not written within {timeout_s} s; it is incomplete, "
                    f"earlier checkpoints are untouched"
                )
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        return self.poll()

    def _run(self) -> None:
        while self._wait_for_a_job():
            self._do_first()

    def _wait_for_a_job(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return bool(self._jobs)

    def _do_first(self) -> None:
        # On a frame of its own, so that what a job holds is free when it is done.
        results: list[T] = []
        errors: list[BaseException] = []
        try:
            with writing("the checkpoint"):
                results.append(self._jobs[0]())
        except BaseException as error:  # raised again by poll, on the server's own thread
            errors.append(error)
        with self._changed:
            self._results += results
            self._errors += errors
            self._jobs.popleft()
            self._changed.notify_all()
