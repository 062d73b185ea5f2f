"""Whether a process's main thread does anything, and waits that look up."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from psdp.processes import MainThread, on_threads, patiently


def while_waiting(end: threading.Event, thread: MainThread) -> list[bool]:
    """Return whether the main thread moved before it waits, while it sleeps, and afterwards."""
    seen = [thread.has_moved()]

    def look() -> None:
        sleeping.wait(10)
        thread.has_moved()  # what it did before it slept
        seen.append(any(thread.has_moved() for _ in range(3) if not end.wait(0.05)))
        end.set()

    sleeping = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()
    threading.Timer(0.2, sleeping.set).start()
    end.wait(10)
    watcher.join()
    return [*seen, thread.has_moved()]


def test_a_main_thread_that_sleeps_does_nothing() -> None:
    assert while_waiting(threading.Event(), MainThread()) == [True, False, True]


def test_who_waits_patiently_looks_up() -> None:
    thread, end = MainThread(), threading.Event()
    moved: list[bool] = []

    def watch() -> None:
        while not end.wait(0.4):
            moved.append(thread.has_moved())
            if len(moved) == 3:
                end.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert patiently(end.wait, 30)
    watcher.join()
    assert moved == [True] * 3


@pytest.mark.parametrize(("comes", "timeout_s"), [(True, 1.0), (False, 0.3)])
def test_a_wait_ends_with_what_comes_or_its_time(comes: bool, timeout_s: float) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        threading.Event().wait(seconds)
        return comes

    assert patiently(wait, timeout_s) is comes
    assert all(seconds <= 0.25 for seconds in waits)


def moves(count: int) -> list[bool]:
    """Return whether the main thread moves each time that it is looked at, from another thread."""
    thread = MainThread()
    thread.has_moved()
    threading.Event().wait(0.1)  # what it did before it waits
    thread.has_moved()
    return [thread.has_moved() for _ in range(count) if not threading.Event().wait(0.4)]


def test_who_waits_for_other_threads_looks_up() -> None:
    assert on_threads(1, [lambda: moves(2)]) == [[True, True]]


def test_what_a_thread_raises_is_raised_and_no_more_is_begun() -> None:
    begun: list[int] = []

    def begin(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        on_threads(1, (partial(begin, number) for number in range(1000)))
    assert begun[0] == 0
    assert len(begun) < 1000
