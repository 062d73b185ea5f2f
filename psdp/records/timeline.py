"""What a rank did when, a span each, for :mod:`psdp.trace` to draw."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FOLDER = "trace"
"""Of the run folder: a file for each rank."""

Gradients = Iterable[tuple[int, int]]
"""Of which a span is: (worker, clock) of each."""


class Timeline:
    """Takes no note."""

    def note(
        self,
        kind: str,
        begin_s: float,
        end_s: float,
        gradients: Gradients = (),
        *,
        aside: bool = False,
        **about: Any,
    ) -> None:
        """Note what took place between two times of the monotonic clock.

        Args:
            gradients: that it is of.
            aside: whether it did on a thread beside the rank's own.
            about: what else there is to say of it, for JSON.
        """


NOBODY_LOOKS = Timeline()


class WrittenTimeline(Timeline):
    """Writes each span as a line, at once: [kind, begin, end, aside, gradients, about], times in
    microseconds since the epoch, by the clock of the rank's host.

    Args:
        now, wall: the two clocks, in seconds.
    """

    def __init__(
        self,
        run: Path,
        rank: int,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        (run / FOLDER).mkdir(exist_ok=True)
        self._file = timeline_file(run, rank).open("a", encoding="utf-8", buffering=1)
        weakref.finalize(self, self._file.close)
        self._offset_s = wall() - now()
        self._writing = threading.Lock()

    def note(
        self,
        kind: str,
        begin_s: float,
        end_s: float,
        gradients: Gradients = (),
        *,
        aside: bool = False,
        **about: Any,
    ) -> None:
        times = (round(1e6 * (at_s + self._offset_s)) for at_s in (begin_s, end_s))
        line = json.dumps([kind, *times, aside, [*gradients], about]) + "\n"
        with self._writing:
            self._file.write(line)


def timeline_file(run: Path, rank: int) -> Path:
    """Return where the spans of a rank are."""
    return run / FOLDER / f"rank-{rank:04d}.jsonl"
