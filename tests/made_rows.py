"""Rows of a report, with numbers of our own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psdp.modes import ONLY_WITH
from psdp.records.search import Search
from psdp.report.breakdown import Breakdown
from psdp.report.measures import Stat
from psdp.report.rows import Row
from psdp.report.scenarios import Scenario

PLAIN = {
    "backup_workers": 0,
    "overlap": False,
    "balance": "static",
    "staleness": None,
    "servers": 1,
}

USUAL = PLAIN | {"staleness": 4, "lag_compensation": "none"}
"""What settings are without a word of them, where they have a meaning."""

OTHERS = {"beta1", "lr", "min_lr", "lag_compensation", "local_steps"}
"""What else a row may be told to have."""


def stat(mean: float, apart: float, *, n: int = 3) -> Stat:
    """Return that of runs with seeds from 1, which are so far apart from one to the next."""
    values = [mean + apart * (index - (n - 1) / 2) for index in range(n)]
    found = Stat.of(enumerate(values, start=1))
    assert found is not None
    return found


def parts(step_s: Sequence[float] = (0.1,) * 4, **changes: float) -> Breakdown:
    """Return what a gradient is made of: a step of 0.1 s on the average, a server and exchanges
    that take little."""
    mean_s = sum(step_s) / len(step_s)
    values: dict[str, Any] = {
        "cores_s": 0.0,
        "step_s": mean_s,
        "behind_s": max(step_s) - mean_s,
        "chance_s": 0.002,
        "update_s": 0.002,
        "exchange_s": 0.006,
        "steps_s": tuple(step_s),
        "varies": 0.05,
        "exchanged_bytes": 8e6,
    }
    values |= changes
    total_s = sum(values[f"{part}_s"] for part in ("cores", "step", "behind", "chance"))
    return Breakdown(total_s + values["update_s"] + values["exchange_s"], **values)


def row(label: str, speed: float, took: float | None = None, **changes: Any) -> Row:
    """Return a row of three runs that makes ``speed`` steps/s and reaches the target after ``took``
    seconds, if at all."""
    mode = label.split()[0].rstrip(",")
    own = {name: changes.pop(name) for name in tuple(changes) if name in {*PLAIN, *OTHERS}}
    values: dict[str, Any] = {
        "label": label,
        "mode": mode,
        "settings": PLAIN | own,
        "follows": tuple(n for n in ONLY_WITH if n not in own or own[n] == USUAL.get(n)),
        "names": ("a", "b", "c"),
        "seeds": (1, 2, 3),
        "steps_per_s": stat(speed, 0.1),
        "tokens_per_s": stat(100 * speed, 10.0),
        "val_loss": stat(2.0, 0.01),
        "best_val_loss": stat(2.0, 0.01),
        "equal_tokens_loss": stat(2.0, 0.01),
        "reached": 0 if took is None else 3,
        "target_s": None if took is None else stat(took, 0.5),
        "lags": {0: 10},
        "gaps": {0: 10},
        "max_gap": 0,
        "bytes": stat(8e6, 0.0),
        "bytes_per_step": stat(8e4, 0.0),
        "bytes_per_token": stat(800.0, 0.0),
        "dropped": 0,
        "shares": (share(0.9),) * 4,
        "step_s": (0.1,) * 4,
        "breakdown": parts(),
        "steps_ratio": speed / 10,
        "tokens_ratio": speed / 10,
    }
    return Row(**values | changes)


def share(compute: float, transfer: float = 0.0) -> dict[str, float]:
    waits = 1 - compute - transfer
    return {"compute": compute, "push": transfer, "wait": waits, "pull": 0.0, "other": 0.0}


def search(trials: int = 5, **best: float) -> Search:
    """Return one whose fourth trial had the best settings."""
    return Search(best, 3, trials, (11, 12), None, loss=1.5, loss_given=2.5)


def scenario(*rows: Row, **changes: Any) -> Scenario:
    values: dict[str, Any] = {
        "workers": 4,
        "stragglers": {},
        "jitter": None,
        "link_mbps": 0.0,
        "differs": "",
        "target": 2.02,
        "target_from": "as asked for",
        "equal_tokens": 5000,
        "rows": rows,
    }
    return Scenario(**values | changes)
