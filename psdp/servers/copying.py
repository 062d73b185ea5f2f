"""Copies of checkpoints elsewhere: made on a thread while rank 0 serves, and told of by rank 0.

A copy that fails is tried again, then told of; the run goes on, and the next checkpoint is copied
as if nothing had been. What is copied is always the latest checkpoint, so that a slow link leaves
some out and is never behind by more than one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from psdp.checkpoint import Copied, Elsewhere, Overtaken
from psdp.errors import CheckpointError
from psdp.records.recorder import Recorder

PAUSES_S = (1.0, 4.0, 16.0)
"""Between the tries of a copy."""

LAST_COPY_S = 600.0
"""How long the end of a run waits for its last copy."""

SUMMARY_S = 20.0
"""How long it waits for that of its summary."""

STALLED_S = 120.0
"""How long nothing may go to and fro before that is told."""

SAID_S = 1.0
"""A wait that is shorter is not worth a line."""


@dataclass(frozen=True)
class NotCopied:
    """All tries of a copy failed; why the last of them did."""

    why: str


class Copier:
    """A daemon thread, which never keeps a dying process alive, that brings a URL up to date.

    Args:
        reach: returns what is there. Asked on that thread, since it may take a second: who begins
            to lead in the middle of a run has none to lose.

    Attributes:
        failed: whether the last update did.
    """

    def __init__(self, url: str, reach: Callable[[], Elsewhere]) -> None:
        self.url = url
        self.failed = False
        self._reach = reach
        self._elsewhere: Elsewhere | None = None
        self._changed = threading.Condition()
        self._wanted = True  # what an earlier start has not copied
        self._busy = False
        self._hurried = False
        self._ended = False
        self._results: list[Copied | NotCopied] = []
        threading.Thread(target=self._run, name="psdp-copier", daemon=True).start()

    @property
    def moved_bytes(self) -> int:
        """So far, to and fro; grows while a copy is on its way."""
        return 0 if self._elsewhere is None else self._elsewhere.moved_bytes

    @property
    def idle(self) -> bool:
        """Whether there is nothing to copy, as far as is known."""
        return self._ended or not (self._wanted or self._busy)

    def wake(self) -> None:
        """There may be something to copy."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def poll(self) -> list[Copied | NotCopied]:
        """Return what has come of it since the last call, in order."""
        with self._changed:
            results, self._results = self._results, []
            return results

    def hurry(self, timeout_s: float) -> bool:
        """Copy what there is, without pauses from now on; say whether it is there in time."""
        with self._changed:
            self._wanted = self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self.idle, timeout_s) and not self.failed

    def close(self) -> None:
        """Nothing more is to be copied."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if self._ended:
                    return
                self._wanted, self._busy = False, True
            why = self._try()
            with self._changed:
                self.failed = why is not None
                if why is not None:
                    self._results.append(NotCopied(why))
                self._busy = False
                self._changed.notify_all()

    def _try(self) -> str | None:
        """Bring the URL up to date; return why that failed, if all tries did."""
        why: str | None = None
        for pause_s in (*PAUSES_S, 0.0):
            if self._ended:
                break
            try:
                elsewhere = self._elsewhere = self._elsewhere or self._reach()
                for copied in elsewhere.update():
                    with self._changed:
                        self._results.append(copied)
                return None
            except Overtaken as error:
                self.failed = self._ended = True
                return str(error)
            except CheckpointError as error:
                why = str(error)
            except Exception as error:  # a mistake of ours costs a copy, not the run
                why = f"{type(error).__name__}: {error}"
            with self._changed:
                self._changed.wait_for(lambda: self._hurried or self._ended, pause_s)
        return why


class Copying:
    """What rank 0 knows of the copies: it writes that down, and waits for the last.

    Args:
        copier: None: nothing is copied.
        now: a clock in seconds.
    """

    def __init__(
        self,
        copier: Copier | None,
        recorder: Recorder,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._copier = copier
        self._recorder = recorder
        self._now = now
        self._end_s: float | None = None
        """When the end of the run began to wait."""
        self._said = self._given_up = False
        self._moved = 0, now()
        """How many bytes had gone to and fro, and since when no more have."""

    def saved(self) -> None:
        """A checkpoint may be complete."""
        if self._copier is not None:
            self._copier.wake()

    def note(self) -> None:
        """Write down what has been copied, and what has not."""
        if self._copier is None:
            return
        for result in self._copier.poll():
            match result:
                case Copied(at, size, seconds):
                    self._recorder.counts["copies"] += 1
                    what = {"checkpoint": at.name, "bytes": size, "copy_s": round(seconds, 3)}
                    self._recorder.happened("copy", what)
                case NotCopied(why):
                    self._failed(why)
        self._note_stall(self._copier)

    def _note_stall(self, copier: Copier) -> None:
        moved, since_s = self._moved
        if copier.idle or copier.moved_bytes != moved:
            self._moved = copier.moved_bytes, self._now()
        elif self._now() - since_s >= STALLED_S:
            self._failed(f"nothing has gone to {copier.url} for {STALLED_S:g} s; still trying")
            self._moved = moved, math.inf

    def _failed(self, why: str) -> None:
        self._recorder.counts["copies_failed"] += 1
        self._recorder.happened("copy_failed", {"reason": why})
        self._recorder.console.warn(f"a copy has failed: {why}")

    def over(self) -> bool:
        """Say whether the end of the run need not wait for copies any longer."""
        copier = self._copier
        if copier is None or copier.idle:
            self.note()
            return True
        if self._end_s is None:
            self._end_s = self._now()
        waited_s = self._now() - self._end_s
        if waited_s >= SAID_S and not self._said:
            self._said = True
            self._recorder.console.say(
                f"waiting for the last copy to {copier.url}, at most {LAST_COPY_S:g} s"
            )
        if waited_s < LAST_COPY_S:
            return False
        self._failed(f"the last copy to {copier.url} was not complete within {LAST_COPY_S:g} s")
        self._given_up = True
        return True

    def finish(self, deadline: float) -> str:
        """Wait for the last copy until a deadline of the clock; return how a sentence that says
        where the weights are goes on."""
        copier = self._copier
        if copier is None:
            return ""
        there = copier.hurry(max(0.0, deadline - self._now()))
        copier.close()
        return f" and {copier.url}" if there else f", not yet in {copier.url}"

    def close(self) -> None:
        """The run is over, and says so in its summary, which is copied too."""
        copier = self._copier
        if copier is None:
            return
        if not (self._given_up or copier.failed or copier.hurry(SUMMARY_S)):
            self._recorder.console.warn(f"the summary is not in {copier.url}")
        copier.close()
