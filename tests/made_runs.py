"""Run folders as a run would leave them, with numbers of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psdp.config import Config

TINY = {"block_size": 8, "batch_size": 2, "max_steps": 10}
"""Settings with which a step of two workers is 32 tokens."""


def write_run(
    path: Path,
    *,
    workers: int = 2,
    evaluations: Sequence[tuple[float, int, float]] = ((0.0, 0, 4.0), (10.0, 320, 2.0)),
    tokens_per_s: float = 32.0,
    wall_s: float = 10.0,
    lags: Mapping[int, int] | None = None,
    gaps: Mapping[int, int] | None = None,
    compute_s: Sequence[float] = (8.0, 8.0),
    wait_s: Sequence[float] = (1.0, 1.0),
    sent: int = 640,
    stopped_by: str = "budget",
    transport: str = "shared",
    **settings: Any,
) -> Path:
    """Write a run folder, with ``evaluations`` as (seconds, tokens, loss); return its path.

    Every worker made half of 20 gradients; what it neither computed nor waited is other.
    """
    config = Config.from_flat(TINY | settings).resolved()
    ranks = range(config.run.servers, config.run.servers + workers)
    tokens = evaluations[-1][1]
    records: list[dict[str, Any]] = [
        {
            "kind": "eval",
            "time_s": time_s,
            "tokens": done,
            "version": done // 32,
            "val_loss": loss,
            "perplexity": 1.0,
            "accuracy": 0.5,
        }
        for time_s, done, loss in evaluations
    ]
    train = {
        "kind": "train",
        "time_s": wall_s,
        "tokens": tokens,
        "version": tokens // 32,
        "loss": 2.5,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": tokens_per_s,
        "version_lag": 0.0,
        "clocks": {str(rank): 10 for rank in ranks},
    }
    records.insert(-1, train)
    gaps, lags = gaps or {0: 20}, lags or {0: 20}
    losses = [loss for _, _, loss in evaluations]
    summary = {
        "mode": config.run.mode,
        "workers": workers,
        "servers": config.run.servers,
        "transport": transport,
        "steps": tokens // 32,
        "tokens": tokens,
        "version": tokens // 32,
        "wall_s": wall_s,
        "tokens_per_s": tokens_per_s,
        "val_loss": losses[-1],
        "best_val_loss": min(losses),
        "max_clock_gap": max(gaps),
        "clock_gap": {"histogram": {str(number): count for number, count in gaps.items()}},
        "version_lag": {"histogram": {str(number): count for number, count in lags.items()}},
        "dropped": {},
        "compute_s": dict(zip(map(str, ranks), compute_s, strict=True)),
        "wait_s": dict(zip(map(str, ranks), wait_s, strict=True)),
        "push_s": {str(rank): 0.5 for rank in ranks},
        "pull_s": {str(rank): 0.25 for rank in ranks},
        "bytes_pushed": sent // 2,
        "bytes_pulled": sent - sent // 2,
        "stopped_by": stopped_by,
    }
    path.mkdir(parents=True)
    settings_record = config.flat() | {"out": str(path)}
    corpus = {"sha256": "c0ffee", "description": "text"}
    write_json(
        path / "config.json",
        {
            "settings": settings_record,
            "workers": workers,
            "servers": config.run.servers,
            "corpus": corpus,
            "parameters": 1000,
            "hosts": ["here"] * (workers + config.run.servers),
            "machines": {"here": {"processor": "a processor", "cores": 2}},
            "threads": [1] * (workers + config.run.servers),
            "kernels": ["compiled"] * (workers + config.run.servers),
            "transport": transport,
            "versions": {"psdp": "0.2", "mpi": "MPI 5", "python": "3.11", "numpy": "2.4"},
        },
    )
    write_json(path / "summary.json", summary)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (path / "metrics.jsonl").write_text(lines)
    return path


def mark_as_tuned(run: Path, number: int = 3, **best: Any) -> None:
    """Have a run folder say that its settings came out best of a search."""
    told = {"best": best, "number": number, "trials": 5, "seeds": [11, 12], "after_s": None}
    write_json(run / "search.json", told | {"loss": 1.5, "loss_given": 2.5})


def write_json(path: Path, record: Any) -> None:
    path.write_text(json.dumps(record))


def change_json(path: Path, *, without: str = "", **changes: Any) -> None:
    """Change keys of a JSON file, and remove one."""
    record = json.loads(path.read_text()) | changes
    record.pop(without, None)
    write_json(path, record)
