"""The run folder: config.json, metrics.jsonl, summary.json and checkpoints/.

Nothing here overwrites another run, nor writes into a folder that another job has taken over; whole
files are written beside and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from psdp.errors import CheckpointError, ConfigError
from psdp.records.lock import LOCK, RunLock

if TYPE_CHECKING:  # of which a spare rank needs nothing
    from psdp.records.tracking import Tracking

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
PROFILE = "profile.json"

VIRTUAL = "virtual"
"""The host of all ranks of a virtual job, whose times were simulated."""

_BLOCK_BYTES = 65536


class RunFolder:
    """One run's folder, written by rank 0.

    Args:
        lock: of a folder that is there, which this process holds.
        token: of the job that holds it, where another process does.

    Attributes:
        tracking: is told of what is written, where it is.

    Raises:
        CheckpointError: anything that cannot be written, naming the file and the reason; or another
            job has taken the folder over.
    """

    def __init__(self, path: Path, lock: RunLock | None = None, token: str = "") -> None:
        self.path = path
        self._lock = lock
        self._token = token
        self.tracking: Tracking | None = None
        self._begun = False
        self._made: list[Path] = []

    @property
    def token(self) -> str:
        """Of the job that holds the folder."""
        return self._token if self._lock is None else self._lock.token

    def create(self) -> RunLock:
        """Make the folder, and hold it; return the lock on it.

        Raises:
            ConfigError: it holds something already, or cannot be made.
            CheckpointError: another job has begun in it.
        """
        try:
            way = (self.path, *self.path.parents)
            self._made = [folder for folder in way if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_empty()
        except OSError as error:
            self._remove_made()
            raise ConfigError(f"--out {self.path}: {error.strerror}") from error
        try:
            self._lock = RunLock(self.path)
            self._check_empty()  # still: another job may have come first, and ended
            self._first_events.unlink(missing_ok=True)
        except BaseException:
            self.let_go()
            self._remove_made()
            raise
        self._begun = True
        return self._lock

    def _check_empty(self) -> None:
        inside = sorted(entry.name for entry in self.path.iterdir())
        begun = {CONFIG, _beside(CONFIG), self._first_events.name}
        if LOCK in inside and {*inside} <= {LOCK, *begun}:
            return  # a run that was lost before it had begun: who can lock it may have it
        if CONFIG in inside:
            raise ConfigError(
                f"--out {self.path} holds another run; choose another folder, or go on with it by "
                f"--resume {self.path}"
            )
        if inside:
            raise ConfigError(
                f"--out {self.path} is not empty (it holds {inside[0]}); choose another folder"
            )

    @property
    def _first_events(self) -> Path:
        from psdp.records.events import events_file  # of which a spare rank needs nothing

        return events_file(self.path, 0)

    def check(self) -> None:
        """See that this job may write here.

        Raises:
            CheckpointError: another one has taken the folder over.
        """
        if self._lock is not None:
            self._lock.check()

    @property
    def is_held(self) -> bool:
        """Whether this process holds the folder."""
        return self._lock is not None

    def hold(self, after: str) -> None:
        """Hold the folder in place of a rank of this job that is lost, by its token.

        Raises:
            CheckpointError: another job has it.
        """
        self._lock = RunLock(self.path, after)

    def let_go(self) -> None:
        """Nothing more is written: let another job have the folder."""
        if self._lock is not None:
            self._lock.release()

    def withdraw(self) -> None:
        """Leave nothing of a run that did not start, so that the next try finds its way free; of a
        folder that held a run before, everything."""
        if self._begun:
            with contextlib.suppress(OSError):
                for file in self.path.iterdir():
                    file.unlink()
            self._remove_made()
        self.let_go()

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def write_config(self, record: dict[str, Any]) -> None:
        self._write_json(CONFIG, record)

    def write_summary(self, record: dict[str, Any]) -> None:
        self._write_json(SUMMARY, record)
        if self.tracking is not None:
            self.tracking.end(record)

    def write_profile(self, record: dict[str, Any]) -> None:
        self._write_json(PROFILE, record)

    def mend_metrics(self) -> None:
        """Drop the last line of metrics.jsonl if it is cut off: the job died writing it."""
        path = self.path / METRICS
        try:
            with path.open("rb+") as file:
                file.truncate(end_of_last_line(file))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unwritable(path, error) from error

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; readers see it at once."""
        path = self.path / METRICS
        self.check()
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise _unwritable(path, error) from error
        if self.tracking is not None:
            self.tracking.record(record)

    def _write_json(self, name: str, record: dict[str, Any]) -> None:
        path = self.path / name
        self.check()
        beside = self.path / _beside(name)
        try:
            # A path in the settings may hold bytes that are no UTF-8.
            with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(record, file, indent=2, ensure_ascii=False, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise _unwritable(path, error) from error


def end_of_last_line(file: BinaryIO) -> int:
    """Return where the last line that has an end ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - _BLOCK_BYTES, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror}; the run stops here")


def _beside(name: str) -> str:
    """Return the name of a file while it is written."""
    return str(Path(name).with_suffix(".tmp"))
