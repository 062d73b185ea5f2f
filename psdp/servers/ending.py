"""The one place that ends a run before its time: the weights so far are saved, the reason is
recorded, and what is raised says what was kept.

Anything that goes wrong on a rank raises there. A worker or another server tells rank 0, which
comes here; the exit status of the job is that of the first rank that failed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from psdp.errors import CheckpointError, ConfigError, PeerLost, RankFailed
from psdp.records.reasons import StoppedBy
from psdp.signals import TRY_AGAIN, is_for_good, status_after
from psdp.transport.world import Gone

LAST_SAVE_S = 4.0
"""How long a run that ends early waits for its last checkpoint."""

PREEMPTED_SAVE_S = 60.0
"""The same where the batch system, or the time limit, leaves time for it."""

TIME_LIMIT = "--max-time"
"""Asks a run to end, as the name of a signal does."""


class Stopped(Exception):
    """The run is to end for a reason that has a name of its own.

    Attributes:
        reason: as summary.json has it.
        error: what is raised of it in the end.
        save_s: how long the last checkpoint may take.
    """

    def __init__(self, reason: StoppedBy, error: Exception, save_s: float = LAST_SAVE_S) -> None:
        super().__init__(str(error))
        self.reason = reason
        self.error = error
        self.save_s = save_s


class Ended(Exception):
    """The run was told to end early; what could be kept is on disk.

    Attributes:
        status: the exit status that says by what.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def asked_to_end(by: str, rank: int = 0, *, begun: bool = True) -> Stopped:
    """Return what ends a run that a rank was asked to end, by the name of a signal or by
    :data:`TIME_LIMIT`.

    Args:
        begun: whether it has trained: to try again with a time in which it has not is in vain.
    """
    text = f"stopped by {by}" if rank == 0 else f"stopped by a signal to rank {rank}"
    if by == TIME_LIMIT:
        ended = Ended(text, TRY_AGAIN)
        if not begun:
            text = f"{by} was over before the first update; it begins with the job, and leaves time"
            ended = Ended(f"{text} for a checkpoint: give more", ConfigError.exit_code)
        return Stopped(StoppedBy.TIME_LIMIT, ended, PREEMPTED_SAVE_S)
    number = signal.Signals[by]
    ended = Ended(text, status_after(number))
    if is_for_good(number):
        return Stopped(StoppedBy.SIGNAL, ended)
    return Stopped(StoppedBy.PREEMPTED, ended, PREEMPTED_SAVE_S)


def failed(rank: int, status: int) -> Stopped:
    """Return what ends a run of which another rank has failed, with this exit status."""
    error = RankFailed(f"rank {rank} failed (see its own message)", status)
    return Stopped(StoppedBy.ERROR, error)


class Ending:
    """Ends a run on rank 0.

    Args:
        settle: goes on with what was begun, until a deadline of ``now``.
        close_records: writes the summary, with a reason.
        save: saves the present version on all servers until a deadline of ``now``; returns where,
            or None if that took too long.
        copied: waits for a copy of it elsewhere until a deadline of ``now``; returns how a sentence
            that says where it is goes on.
    """

    def __init__(
        self,
        settle: Callable[[float], None],
        close_records: Callable[[StoppedBy], None],
        save: Callable[[float], Path | None],
        copied: Callable[[float], str] = lambda _: "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settle = settle
        self._close_records = close_records
        self._save = save
        self._copied = copied
        self._now = now

    def end(self, error: BaseException) -> NoReturn:
        """Save what there is, and raise what is to be told, with a note of what was kept.

        Raises:
            BaseException: ``error``, or of :class:`Stopped` what it stands for.
            Gone: this rank is no more, and does nothing else.
        """
        if isinstance(error, Gone):
            raise error
        reason, told = _reason_of(error)
        save_s = error.save_s if isinstance(error, Stopped) else LAST_SAVE_S
        kept, begin = "", self._now()
        # Of a server that is gone, no weights are left to save.
        saves = not isinstance(error, PeerLost)
        try:
            if saves:
                # What other servers owe this one comes soon, or never: time to save is kept.
                self._settle(begin + save_s / 2)
        except Gone:
            raise
        except BaseException as other:  # whatever it is, the first one is what is told
            kept = _not_saved(other)
        with suppress(BaseException):  # who cannot write the summary may yet save the weights
            self._close_records(reason)
        if saves and not isinstance(error, CheckpointError):
            told.add_note(kept or self._kept(begin + save_s, save_s))
        if told is error:
            raise error
        raise told from told.__cause__

    def _kept(self, deadline: float, save_s: float) -> str:
        """Save the weights so far; return a sentence that says where."""
        try:
            path = self._save(deadline)
        except Gone:
            raise
        except BaseException as error:
            return _not_saved(error)
        if path is None:
            return f"no checkpoint could be written within {save_s:g} s"
        return f"the weights so far are in {path}{self._copied(deadline)}"


def _not_saved(error: BaseException) -> str:
    # Many an error of Python's own has no text.
    return f"the weights so far could not be saved: {str(error) or type(error).__name__}"


def _reason_of(error: BaseException) -> tuple[StoppedBy, BaseException]:
    match error:
        case Stopped():
            return error.reason, error.error
        case KeyboardInterrupt():
            return StoppedBy.SIGNAL, error
        case _:
            return StoppedBy.ERROR, error
