"""The run folder at a rank that may have to go on with the records of another one."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from psdp.records.folder import METRICS, RunFolder

_OF_THE_CLOCK = ("time_s", "_per_s")
"""Ends of the names of what two ranks measure each for itself."""


class Shadow(RunFolder):
    """A run folder that another rank writes, until this one takes it over.

    Args:
        latest: so many lines of metrics.jsonl may be missing there when that rank is lost.
    """

    def __init__(self, path: Path, token: str, latest: int) -> None:
        super().__init__(path, token=token)
        self._lines: deque[dict[str, Any]] = deque(maxlen=latest)

    def follow(self, token: str) -> None:
        """Have it be another rank that writes the folder, by its token."""
        self._token = token

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; keep it, as long as another rank writes that."""
        if self.is_held:
            super().append_metrics(record)
        else:
            self._lines.append(record)

    def take_over(self) -> list[dict[str, Any]]:
        """Hold the folder in place of the rank that did, and add what that has not written; return
        the records of this start of the run.

        Raises:
            CheckpointError: another job has it, or it cannot be written.
        """
        self.hold(after=self.token)
        self.mend_metrics()
        records = _records(self.path / METRICS)
        known = {_content(record) for record in records}
        for record in self._lines:
            if _content(record) not in known:
                self.append_metrics(record)
                records.append(record)
        return records


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the lines since the run was taken up last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    starts = [n for n, record in enumerate(records, start=1) if record["kind"] == "resume"]
    return records[max(starts, default=0) :]


def _content(record: dict[str, Any]) -> str:
    """Return what a line says but for the clock."""
    return json.dumps(
        {name: value for name, value in record.items() if not name.endswith(_OF_THE_CLOCK)},
        sort_keys=True,
    )
