"""The run folder: config.json, metrics.jsonl, summary.json and checkpoints/.

Nothing here overwrites another run; whole files are written beside and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from psdp.errors import CheckpointError, ConfigError

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
PROFILE = "profile.json"


class RunFolder:
    """One run's folder, written by rank 0.

    Raises:
        CheckpointError: anything that cannot be written, naming the file and the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False
        self._made: list[Path] = []

    def create(self) -> None:
        """Make the folder.

        Raises:
            ConfigError: it holds something already, or cannot be made.
        """
        try:
            way = (self.path, *self.path.parents)
            self._made = [folder for folder in way if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            inside = sorted(entry.name for entry in self.path.iterdir())
        except OSError as error:
            self._remove_made()
            raise ConfigError(f"--out {self.path}: {error.strerror}") from error
        if CONFIG in inside:
            raise ConfigError(
                f"--out {self.path} holds another run; choose another folder, or go on with it by "
                f"--resume {self.path}"
            )
        if inside:
            raise ConfigError(
                f"--out {self.path} is not empty (it holds {inside[0]}); choose another folder"
            )
        self._begun = True

    def withdraw(self) -> None:
        """Leave nothing of a run that did not start, so that the next try finds its way free; of a
        folder that held a run before, everything."""
        if self._begun:
            with contextlib.suppress(OSError):
                for file in self.path.iterdir():
                    file.unlink()
            self._remove_made()

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def write_config(self, record: dict[str, Any]) -> None:
        self._write_json(CONFIG, record)

    def write_summary(self, record: dict[str, Any]) -> None:
        self._write_json(SUMMARY, record)

    def write_profile(self, record: dict[str, Any]) -> None:
        self._write_json(PROFILE, record)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; readers see it at once."""
        path = self.path / METRICS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    def _write_json(self, name: str, record: dict[str, Any]) -> None:
        path = self.path / name
        beside = path.with_suffix(".tmp")
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


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error.strerror}; the run stops here")
