"""All checks of a run folder, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from psdp.audit.checkpoints import Checkpoints, Kept, read_checkpoints
from psdp.audit.data import Uses, coverage
from psdp.audit.findings import Findings, Place
from psdp.audit.following import Following
from psdp.audit.jobs import job_of
from psdp.audit.ledger import Used
from psdp.audit.rare import Rare, read_rare
from psdp.audit.recomputing import Recomputing
from psdp.audit.starts import Part, Start, parts_of, read_starts
from psdp.audit.summary import Summary, read_summary
from psdp.audit.unrecorded import Unrecorded
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.events import events_file
from psdp.records.folder import CONFIG, METRICS

NOT_RECORDED = "it was not made with --record"


class Audit:
    """The checks of one run.

    Args:
        noted: called with each push of a recorded start that has gone into an update.

    Raises:
        ConfigError: there is no run.
    """

    def __init__(self, run: Path, noted: Callable[[Used], None] | None = None) -> None:
        self.run = run
        self.findings = Findings()
        self.followed: list[Following] = []
        self.config = _read_config(run)
        self.job = _job_of(run, self.config)
        self._noted = noted
        self._kept: Mapping[int, Kept] = {}
        self._unit = self.job.task.unit

    def check(self) -> Findings:
        """Make all checks that can be made; return what was found."""
        findings = self.findings
        starts: list[Start] = []
        with findings.checking("starts", self.run / METRICS):
            starts = read_starts(self.run, self._unit)
        summary = None
        with findings.checking("summary", self.run):
            told = read_summary(self.run)
            summary = None if told is None else Summary(self.run, told, starts)
        kept = read_checkpoints(self.run, findings)
        checkpoints = Checkpoints(self.run, kept, self._unit, findings)
        if starts:
            wanted = {each.version for each in kept}
            if summary is not None and isinstance(summary.told.get("version"), int):
                wanted.add(summary.told["version"])
            self._check_parts(starts, summary, wanted, checkpoints)
        return findings

    def recompute(self, count: int, seed: int) -> None:
        """Compute so many updates again, chosen by a seed; after :meth:`check`."""
        if self.findings.contradicted:
            why = "the records are contradicted"
            self.findings.unchecked("recomputed", f"{count} updates", why)
            return
        again = Recomputing(self.config, self.followed, self._kept, self.findings)
        again.recompute(count, seed)

    def _check_parts(
        self,
        starts: list[Start],
        summary: Summary | None,
        wanted: set[int],
        checkpoints: Checkpoints,
    ) -> None:
        findings, parts = self.findings, parts_of(starts)
        for start in starts:
            if not any(part.start is start for part in parts):
                findings.proved(
                    "starts",
                    f"that from version {start.version}, metrics.jsonl from line "
                    f"{start.lines.start}, left nothing that counts",
                )
        own, following, rare, last = False, None, None, None
        for part in parts:
            is_last = part is parts[-1]
            following = self._begin(part, wanted)
            if is_last and summary is not None:
                own = self._is_own(summary, following)
            ended = is_last and own and summary is not None and summary.finished
            best = None if following is None else following.header.best
            with findings.checking("starts", self.run / METRICS):
                rare = read_rare(self.run, self._unit, part, best)
                last = self._check_part(part, following, rare, ended=ended)
        checkpoints.verify()
        self._kept = checkpoints.sound
        sound = [each for each in self.followed if each.sound]
        checkpoints.compare(sound)
        checkpoints.check_links(sound)
        if rare is not None:
            self._check_summary(summary, following, rare, checkpoints, own=own)
        if last is not None:
            self._check_windows(last, following)

    def _begin(self, part: Part, wanted: set[int]) -> Following | None:
        path = events_file(self.run, part.start.version)
        unrecorded = part.start.resumed and part.start.events is None
        if unrecorded or not path.exists():
            if part.start.resumed and part.start.events is not None:
                text = f"the record of {part} is gone, which metrics.jsonl tells of"
                self.findings.contradicted_by("updates", text, Place(path))
            return None
        with self.findings.checking("updates", path):
            return Following(self.run, part, wanted, noted=self._noted)
        return None

    def _is_own(self, summary: Summary, following: Following | None) -> bool:
        own = False
        with self.findings.checking("summary", summary.path):
            own = summary.is_of(None if following is None else following.chain.start)
            if not own:
                self.findings.unchecked(
                    "summary", "what it says", "it is of an earlier start; the last has none yet"
                )
        return own

    def _check_part(
        self, part: Part, following: Following | None, rare: Rare, *, ended: bool
    ) -> Uses | None:
        """Check a part; return the batches that were used by its end, if that is known."""
        findings = self.findings
        if following is not None:
            following.follow(findings, ended=ended)
            self.followed.append(following)
            if not following.sound:
                why = "its events are contradicted"
                findings.unchecked("windows", f"what {part} has used", why)
                return None
            rare.compare(findings, following, whole=ended)
            return following.ledger.uses
        unrecorded = Unrecorded(self.run, part, self.job)
        unrecorded.check(findings)
        what = "which gradients made which update, and that each grant came to one"
        why = NOT_RECORDED if self.job.mode.served else "workers made the updates by themselves"
        findings.unchecked("updates", f"{part}: {what}", why)
        return None if self.job.deals else Uses(self.job, unrecorded.clocks, ())

    def _check_summary(
        self,
        summary: Summary | None,
        following: Following | None,
        rare: Rare,
        checkpoints: Checkpoints,
        *,
        own: bool,
    ) -> None:
        if summary is None:
            why = "there is none: the run was cut off, or goes on"
            self.findings.unchecked("summary", "what it would say", why)
        elif own:
            sound = following if following is not None and following.sound else None
            if following is None or sound is not None:
                summary.compare(self.findings, self.job, sound, rare)
            summary.compare_weights(self.findings, checkpoints)
        with self.findings.checking("best", self.run):
            best = checkpoints.best()
            if best is not None:
                self.findings.proved("best", f"best.json names the checkpoint of version {best}")

    def _check_windows(self, uses: Uses, following: Following | None) -> None:
        job = self.job if following is None else following.job
        tokens = self.config.get("corpus", {}).get("train_tokens")
        if not isinstance(tokens, int):
            what = "each batch of each share was used once at most"
            if following is not None:
                self.findings.proved("batches", what)
            self.findings.unchecked("windows", "which they are", "the task is a program's own")
            return
        covered = coverage(job, uses, tokens)
        if following is None:
            self.findings.unchecked(
                "windows", f"that, as clocks have it, {covered}", "nothing tells of each update"
            )
            return
        recorded = all(each.header.checkpoint is None for each in self.followed[:1])
        since = (
            ""
            if recorded
            else (
                f" (from version {self.followed[0].header.version} on; before, as clocks have it)"
            )
        )
        self.findings.proved("windows", f"{covered}{since}")


def _read_config(run: Path) -> Mapping[str, Any]:
    path = run / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise ConfigError(f"{path}: {why}; name the folder of a run, as --out had it") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no JSON object; name the folder of a run, as --out had it")
    return config


def _job_of(run: Path, config: Mapping[str, Any]) -> Job:
    """Return the job of the last start of a run."""
    try:
        ranks = len(config["hosts"]) - config["servers"]
        return job_of(config["settings"], dict(config) | {"ranks": ranks})
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{run / CONFIG} is of no job that this psdp knows: {type(error).__name__}: {error}"
        ) from error
