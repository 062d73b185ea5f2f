"""Trackers of one's own, as --track takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

Record = Mapping[str, Any]


class Heard:
    """Keeps what all trackers of this class were told."""

    told: ClassVar[list[tuple[Any, ...]]] = []

    def begin(self, run: Path, config: Record) -> None:
        self.told.append(("begin", run, config["settings"]["mode"]))

    def record(self, step: int, record: Record) -> None:
        self.told.append(("record", step, record["kind"], record["version"]))

    def end(self, summary: Record) -> None:
        self.told.append(("end", summary["stopped_by"]))


class Fails(Heard):
    """Fails at its third record."""

    told: ClassVar[list[tuple[Any, ...]]] = []

    def record(self, step: int, record: Record) -> None:
        super().record(step, record)
        if len(self.told) == 4:
            raise OSError("the network is down")


class Useless:
    """Hears nothing."""


class Unmade(Heard):
    """Cannot be made."""

    def __init__(self) -> None:
        raise PermissionError("no key")
