"""Recorded runs to audit, and what may be done to them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from in_memory.jobs import Training, before_gradient, train

from psdp.audit.auditing import Audit
from psdp.audit.findings import UNTOLD, Finding, Findings, Verdict
from psdp.records.events import hash_of

COMMON: dict[str, Any] = {
    "workers": 3, "max_steps": 15, "lr": 1e-2, "dropout": 0.1, "eval_every": 5,
    "checkpoint_every": 4, "record": True,
}  # fmt: skip


def uneven(run: Training) -> None:
    """Let workers take their time, the first of them more than the others."""
    for number in range(run.workers):
        rng = random.Random(number)
        most_s = 4e-3 if number == 0 else 1e-3

        def action(_count: int, rng: random.Random = rng, most_s: float = most_s) -> None:
            time.sleep(rng.random() * most_s)

        before_gradient(run.worker(number), action)


def record(folder: Path, prepare: Callable[[Training], None] = uneven, **settings: Any) -> Training:
    """Return a run of these settings that is over."""
    return train(folder, prepare=prepare, **(COMMON | settings))


def audit(run: Path) -> Findings:
    return Audit(run).check()


def of(findings: Findings, verdict: Verdict) -> list[Finding]:
    return [finding for finding in findings.all if finding.verdict is verdict]


def expect_proved(run: Path) -> Findings:
    """See that nothing is contradicted, and all could be checked that can be."""
    findings = audit(run)
    others = [each for each in findings.all if each.verdict is not Verdict.PROVED]
    assert [str(each) for each in others if each.why != UNTOLD] == []
    return findings


def contradictions(run: Path) -> list[str]:
    return [str(finding) for finding in of(audit(run), Verdict.CONTRADICTED)]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def chained(lines: list[str]) -> list[str]:
    """Return lines of events with the hashes that they should have."""
    before, whole = "", []
    for line in lines:
        body = json.dumps(json.loads(line)[:-1])[:-1]
        before = hash_of(before, body)
        whole.append(f'{body}, "{before}"]\n')
    return whole


def change(path: Path, **values: Any) -> None:
    """Change what a file of JSON says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def seal(run: Path) -> None:
    """Write the hash of the last event into the summary, as who forges a record would."""
    path = run / "events-000000.jsonl"
    lines = [json.loads(line) for line in lines_of(path)]
    told = {"file": path.name, "start": lines[0][-1], "line": len(lines), "hash": lines[-1][-1]}
    change(run / "summary.json", events=told)
