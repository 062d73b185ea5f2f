"""What a rank did when, a span each, for :mod:`psdp.trace` to draw."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from psdp.appearing import told_of

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
    microseconds since the epoch, by the clock of the rank's host. If one cannot be written that is
    told once, and never ends the run: no more are.

    Args:
        say: tells of that.
        now, wall: the two clocks, in seconds.
    """

    def __init__(
        self,
        run: Path,
        rank: int,
        say: Callable[[str], object],
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._say = timeline_file(run, rank), say
        self._offset_s = wall() - now()
        self._writing = threading.Lock()
        self._file: FileIO | None = None
        with self._telling():
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
            self._file.seek(0)
            # Who was here before may have been lost while it wrote.
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
            weakref.finalize(self, self._file.close)

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
        with self._writing, self._telling():
            if self._file is not None and self._file.write(line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a part had room

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            self._say(
                f"--trace: {self._path} cannot be written ({told_of(error)}); the run goes on "
                "without what this rank does from now on"
            )


def timeline_file(run: Path, rank: int) -> Path:
    """Return where the spans of a rank are."""
    return run / FOLDER / f"rank-{rank:04d}.jsonl"
