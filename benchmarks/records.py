"""What a psdp job says of itself in its run folder, read for benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMES = ("compute_s", "push_s", "wait_s", "pull_s")


@dataclass(frozen=True)
class TrainRecord:
    """The state at a version, and the mean loss of the versions since the record before."""

    version: int
    time_s: float
    tokens: int
    loss: float


@dataclass(frozen=True)
class Totals:
    """Seconds of each worker by kind and rank, and what servers used of a core, in percent."""

    wall_s: float
    workers: dict[str, dict[str, float]]
    server_percent: dict[str, float]


def read_records(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run that may be at work, all but a last line that is not whole; none
    if there are none yet."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def read_train_records(run: Path) -> list[TrainRecord]:
    """Return the train records of a run in order.

    Raises:
        KeyError: one lacks a field.
    """
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        TrainRecord(r["version"], r["time_s"], r["tokens"], r["loss"])
        for r in map(json.loads, lines)
        if r["kind"] == "train"
    ]


def tokens_per_s(records: Sequence[TrainRecord], first: int, last: int) -> float:
    """Return the throughput between the records of two versions.

    Raises:
        KeyError: there is no record of one of them.
    """
    at = {record.version: record for record in records}
    return (at[last].tokens - at[first].tokens) / (at[last].time_s - at[first].time_s)


def totals(summary: Mapping[str, Any]) -> Totals:
    """Return where the time of a whole run went.

    Raises:
        KeyError: a field is missing; ``push_s``, ``pull_s`` and ``server_cpu_s`` must be there.
    """
    wall_s = summary["wall_s"]
    return Totals(
        wall_s=wall_s,
        workers={rank: {time: summary[time][rank] for time in TIMES} for rank in summary[TIMES[0]]},
        server_percent={
            rank: 100 * cpu_s / wall_s for rank, cpu_s in summary["server_cpu_s"].items()
        },
    )


def largest_difference(
    records: Sequence[TrainRecord], losses: Sequence[float], up_to: int
) -> float:
    """Return how far the losses of psdp and of another side are apart at most.

    Args:
        losses: of the other side, step by step from the first.
        up_to: the steps that are compared; records of later versions are not.
    """
    differences, start = [], 0
    for record in records:
        if record.version <= up_to:
            mean = sum(losses[start : record.version]) / (record.version - start)
            differences.append(abs(record.loss - mean))
        start = record.version
    return max(differences)
