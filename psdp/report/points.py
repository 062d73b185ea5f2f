"""The files of a run folder, read: its records as points of curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Unusable(Exception):
    """Why a folder cannot be compared."""


@dataclass(frozen=True)
class Point:
    """One train or eval record.

    What is called tokens in a report is what the run's task counts (:attr:`Run.unit`).

    Attributes:
        time_s: spent on the run until then, earlier starts of it included.
        loss: a unit, None where it was not finite: of the training since the last train
            record, or of the validation split.
        record: the line as it was written.
    """

    kind: str
    time_s: float
    tokens: int
    version: int
    loss: float | None
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """A finite validation loss, of a unit, and when it was reached."""

    time_s: float
    tokens: int
    loss: float


def read_points(path: Path, units: str) -> tuple[tuple[Point, ...], int]:
    """Return the records that are of the run, and the units that its last start began at.

    A start that resumed the run dropped what was later than its checkpoint, and began to count its
    time anew.

    Raises:
        Unusable: they cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Unusable(f"{path.name}: {error.strerror}") from error
    points: list[Point] = []
    began_tokens, spent_s = 0, 0.0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise Unusable(f"{path.name}, line {number} is no JSON: {line[:60]!r}") from error
        if record["kind"] == "resume":
            points = [point for point in points if point.version <= record["version"]]
            spent_s = max((point.time_s for point in points), default=0.0)
            began_tokens = int(record[units])
        elif record["kind"] in ("train", "eval"):
            points.append(
                Point(
                    kind=str(record["kind"]),
                    time_s=spent_s + float(record["time_s"]),
                    tokens=int(record[units]),
                    version=int(record["version"]),
                    loss=number_of(record["loss" if record["kind"] == "train" else "val_loss"]),
                    record=record,
                )
            )
    return tuple(points), began_tokens


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        Unusable: there is none.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"{path.name} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise Unusable(f"{path.name} holds no object")
    return record


def number_of(value: Any) -> float | None:
    """Return a number that a file holds, or None for null."""
    return None if value is None else float(value)
