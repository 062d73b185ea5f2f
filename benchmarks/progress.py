"""How far a job at work has come, by what it writes into its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from failing import Phase

from psdp.checkpoint.layout import CHECKPOINTS, TEMPORARY
from psdp.records.folder import METRICS, SUMMARY


class Progress:
    """Reads what is new each time that it is asked.

    Args:
        last_version: with which the run ends.
        versions_per_eval: between evaluations.

    Attributes:
        version: of the last update that a record tells of; -1 before.
    """

    def __init__(self, run: Path, last_version: int, versions_per_eval: int) -> None:
        self.version = -1
        self._run = run
        self._last_version = last_version
        self._versions_per_eval = versions_per_eval
        self._evaluated = 0
        self._read_bytes = 0

    @property
    def share(self) -> float:
        """Of the updates, how many are made."""
        return max(0, self.version) / self._last_version

    def phase(self) -> Phase:
        """Return how far the job has come by now."""
        for record in self._news():
            if record["kind"] == "train":
                self.version = record["version"]
            elif record["kind"] == "eval":
                self._evaluated = record["version"]
        if self.version < 0:
            return Phase.START
        if self.version >= self._last_version or (self._run / SUMMARY).exists():
            return Phase.ENDING
        if any((self._run / CHECKPOINTS).glob(f"{TEMPORARY}*")):
            return Phase.SAVING
        due = self.version - self.version % self._versions_per_eval
        return Phase.EVALUATING if self._evaluated < due else Phase.TRAINING

    def _news(self) -> list[dict[str, Any]]:
        """Return the whole records that have been added; all, where the job has begun anew."""
        try:
            with (self._run / METRICS).open("rb") as file:
                if self._read_bytes > file.seek(0, 2):
                    self._read_bytes, self.version, self._evaluated = 0, -1, 0
                file.seek(self._read_bytes)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read_bytes += len(whole + end)
        return [json.loads(line) for line in whole.splitlines()]
