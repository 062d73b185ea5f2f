"""The summary of a run beside what its records come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psdp.audit.checkpoints import Checkpoints
from psdp.audit.findings import Contradiction, Findings, Place, expect
from psdp.audit.following import Following
from psdp.audit.rare import Rare
from psdp.audit.starts import Start
from psdp.job import Job
from psdp.records.events import Seal
from psdp.records.folder import SUMMARY
from psdp.records.metrics import Histogram
from psdp.records.reasons import StoppedBy

FINISHED = (StoppedBy.BUDGET, StoppedBy.EARLY_STOP)


def read_summary(run: Path) -> dict[str, Any] | None:
    """Return what summary.json says; None if there is none.

    Raises:
        Contradiction: it cannot be read.
    """
    path = run / SUMMARY
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Contradiction(f"it cannot be read: {error}", Place(path)) from error
    if not isinstance(content, dict):
        raise Contradiction("it is no summary", Place(path))
    return content


class Summary:
    """What summary.json says.

    Args:
        starts: of the run, of which it may be any one's: who is cut off writes none.
    """

    def __init__(self, run: Path, told: Mapping[str, Any], starts: Sequence[Start]) -> None:
        self.path = run / SUMMARY
        self.told = told
        self.seal = Seal.from_record(told.get("events"))
        self._starts = starts

    @property
    def finished(self) -> bool:
        """Whether it is of a run that came to its end."""
        return self.told.get("stopped_by") in FINISHED

    def is_of(self, start: str | None) -> bool:
        """Say whether it is of the last start, whose events begin with this hash, if it has any.

        Raises:
            Contradiction: it is of no start that there was.
        """
        own = None if self.seal is None else self.seal.start
        if own == start:
            return True
        # Of the first start metrics.jsonl does not say whether it was recorded.
        earlier = {begun.events for begun in self._starts[:-1] if begun.resumed}
        known = own in earlier or any(not begun.resumed for begun in self._starts[:-1])
        expect(known, "its events are those of no start of this run", Place(self.path))
        return False

    def compare(
        self,
        findings: Findings,
        job: Job,
        following: Following | None,
        rare: Rare,
        last: tuple[int, int] | None,
    ) -> None:
        """Compare it with the events of the last start, if there are any, and with its records.

        Args:
            last: version and units of the last train record, where there are no events.
        """
        with findings.checking("summary", self.path):
            expected = rare.summed_up()
            if following is not None:
                expected |= self._of_events(job, following)
            elif last is not None and self.finished:
                version, units = last
                steps = units // job.units_per_step
                expected |= {"version": version, job.units_name: units, "steps": steps}
            for name, value in expected.items():
                told = self.told.get(name)
                same = told == value or (told is None and value == 0)  # of what cannot be here
                expect(same, f"{name} is {told!r}, the records make it {value!r}")
            if following is not None:
                reached = following.drained and following.ledger.left <= 0
                stopped_by = self.told.get("stopped_by")
                if stopped_by == StoppedBy.BUDGET:
                    expect(reached, "the budget is not spent, though it stopped the run")
                if stopped_by == StoppedBy.EARLY_STOP:
                    expect(following.drained, "the run was not stopped, though it says so")
            names = ", ".join(name for name in expected if name != "events")
            findings.proved("summary", f"{names} are those of the records")

    def _of_events(self, job: Job, following: Following) -> dict[str, Any]:
        """Return what it is to say by the events of the last start."""
        version = self.told.get("version")
        state = following.states.get(version) if isinstance(version, int) else None
        if state is None:
            raise Contradiction(
                f"version is {version!r}, the events make it {following.ledger.version}"
            )
        expected = {
            job.units_name: state.units,
            "steps": state.units // job.units_per_step,
            "workers": len(job.workers),
            "version_lag": Histogram(Counter(state.lags)).record(),
            "events": following.chain.seal.record(),
        }
        if version == following.ledger.version:
            tally, gaps = following.ledger.tally, following.clock_gaps
            dropped = {str(worker): tally.dropped[worker] for worker in job.workers}
            expected |= {
                "clock_gap": Histogram(Counter(gaps)).record(),
                "max_clock_gap": max(gaps, default=0),
                "dropped": {worker: count for worker, count in dropped.items() if count},
            }
        else:
            expect(not self.finished, f"version is {version}, the events go on")
        return expected

    def compare_weights(self, findings: Findings, checkpoints: Checkpoints) -> None:
        """Compare the weights that it tells of with the checkpoint of their version."""
        version, told = self.told.get("version"), self.told.get("weights_sha256")
        if told is None or not isinstance(version, int):
            return
        kept = checkpoints.weights_sha256(version)
        if kept is None:
            findings.unchecked(
                "weights", f"those of version {version}", "no whole checkpoint has them"
            )
        elif kept != told:
            text = f"weights_sha256 is {told}, the checkpoint of version {version} has {kept}"
            findings.contradicted_by("weights", text, Place(self.path))
        else:
            findings.proved("weights", f"those of version {version} have the hash of the summary")
