"""Signals that ask a job to end, and the exit status that each leads to."""

from __future__ import annotations

import signal

TRY_AGAIN = 75
"""The exit status of a job that is saved and wants to be started again (EX_TEMPFAIL of
sysexits.h): batch systems put it back into their queue on this one."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_FOR_GOOD = (signal.SIGINT, signal.SIGTERM)


def is_for_good(number: int) -> bool:
    """Say whether a signal ends a job for good; the others take its machine away for a while."""
    return number in _FOR_GOOD


def status_after(number: int) -> int:
    """Return the exit status of a job that a signal has ended."""
    return 128 + number if is_for_good(number) else TRY_AGAIN


def heeded() -> list[signal.Signals]:
    """Return the signals that this process is to take: not a hang-up that it was started to
    ignore, as by nohup."""
    return [
        number
        for number in ENDING
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]
