"""Ranks that die in a job in memory, and what must hold of it then."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from jobs import Training

from psdp.audit.auditing import Audit
from psdp.checkpoint import find_checkpoint, read_best, read_manifest, read_weights
from psdp.transport import messages as m

WHERE: Mapping[str, tuple[type[Any], int]] = {
    "before an update is told": (m.Include, 4),
    "while an update is told": (m.ApplyMean, 3),
    "before an answer": (m.Answer, 5),
    "before a copy is let go": (m.DropSnapshot, 1),
    "before it asks for the last checkpoint": (m.SaveSnapshot, 3),
    "at the end": (m.Over, 1),
    "while it says that the run is over": (m.Finish, 2),
}
"""At which messages of rank 0 it may die: of which kind, and which of these, from 1."""


def die_with(run: Training, rank: int, kind: type[Any], number: int = 1) -> None:
    """Let a rank die instead of sending its message of a kind of this number, from 1."""
    endpoint = run.ranks[rank].endpoint
    send, sent = endpoint.send, 0

    def sending(peer: int, message: m.Message, *more: Any) -> Any:
        nonlocal sent
        sent += isinstance(message, kind)
        if sent == number and isinstance(message, kind):
            endpoint.die()
        return send(peer, message, *more)

    endpoint.send = sending  # type: ignore[method-assign]


def die_at_message(run: Training, rank: int, number: int) -> None:
    """Let a rank die instead of sending its message of this number, from 1."""
    die_with(run, rank, object, number)


def records(run: Training) -> list[dict[str, Any]]:
    """Return the records that count: not those of what a resumed run has done or measured again."""
    kept: list[dict[str, Any]] = []
    resumed = None
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        kind, version = record["kind"], record["version"]
        if kind == "resume":
            resumed = version
            kept = [earlier for earlier in kept if earlier["version"] <= version]
        elif kind == "eval" and version == resumed:
            kept = [it for it in kept if (it["kind"], it["version"]) != (kind, version)]
        kept.append(record)
    return kept


def told(run: Training) -> tuple[Any, ...]:
    """Return what is the same of all runs that are exact."""
    lines = records(run)
    said = [
        [(line["version"], line[name]) for line in lines if line["kind"] == kind]
        for kind, name in (("train", "loss"), ("train", "grad_norm"), ("eval", "val_loss"))
    ]
    return run.weights_sha256, run.summary["weights_sha256"], *said


def check(run: Training) -> None:
    """See that a run is whole: its budget, its records, and its last checkpoint."""
    assert run.summary["stopped_by"] == "budget"
    assert sum(run.progress.clocks.values()) == run.job.gradients
    assert len({serving.progress.version for serving in run.servers}) == 1
    lines = records(run)
    for kind in ("train", "eval"):
        versions = [line["version"] for line in lines if line["kind"] == kind]
        assert versions == sorted(set(versions))
    if not any(line["kind"] == "resume" for line in lines):
        _check_counts(run, lines)
    kept = read_manifest(find_checkpoint(run.folder))
    np.testing.assert_array_equal(read_weights(kept), run.weights)
    _check_best(run, lines)
    findings = Audit(run.folder).check()
    assert not findings.contradicted, "\n".join(map(str, findings.all))


def _check_best(run: Training, lines: list[dict[str, Any]]) -> None:
    """See that the checkpoint of the best evaluation is known as the best."""
    losses = {line["version"]: line["val_loss"] for line in lines if line["kind"] == "eval"}
    best = read_best(run.folder / "checkpoints")
    assert best is not None
    assert losses[best.version] == min(losses.values()) == run.summary["best_val_loss"]
    read_manifest(run.folder / "checkpoints" / best.name)


def _check_counts(run: Training, lines: list[dict[str, Any]]) -> None:
    """See that the summary counts what the records tell."""
    count = Counter(line["kind"] for line in lines)
    assert run.summary["moves"] == count["move"]
    assert run.summary.get("takeovers", 0) == count["takeover"]
    assert run.summary["failures"] == count["failure"] + count["takeover"] + count["standby"]
    changes = [line for line in lines if line["kind"] == "mode"]
    assert run.summary["modes"] == [
        {"version": line["version"], "mode": line["mode"]} for line in changes
    ]
