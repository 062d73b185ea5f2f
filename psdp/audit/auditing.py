"""All checks of a run folder, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from psdp.audit.checkpoints import Checkpoints, Kept, read_checkpoints
from psdp.audit.data import Uses, coverage, windows_of
from psdp.audit.deciding import has_hashes
from psdp.audit.findings import Contradiction, Findings, expect
from psdp.audit.following import Following
from psdp.audit.jobs import job_of
from psdp.audit.ledger import Used
from psdp.audit.rare import Rare, best_before, read_rare
from psdp.audit.recomputing import Recomputing
from psdp.audit.starts import Part, Start, parts_of, read_starts
from psdp.audit.summary import Summary, read_summary
from psdp.audit.unrecorded import Unrecorded
from psdp.audit.uses import Table
from psdp.data.windows import Elsewhere, Windows
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.events import events_file
from psdp.records.folder import CONFIG, METRICS
from psdp.startup.resume import CHANGEABLE, OF_A_START, ranks_that_work


class Audit:
    """The checks of one run.

    Raises:
        ConfigError: there is no run.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.findings = Findings()
        self.followed: list[Following] = []
        self.config = _read_config(run)
        self.job = _job_of(run, self.config)
        self._noted: Callable[[Used], None] | None = None
        self._kept: Mapping[int, Kept] = {}
        self._unrecorded: list[Unrecorded] = []
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

    def write_uses(self, path: Path) -> Findings:
        """Make all checks, and write which window was used in which update as far as events tell.

        Raises:
            ConfigError: the task has no windows, or the table cannot be written.
        """
        windows = self._windows()
        if windows is None:
            raise ConfigError(f"--uses: {self.run} is of a program's own task, without windows")
        if isinstance(windows, Elsewhere):
            raise ConfigError(
                f"--uses: where the windows of {self.run} begin, its corpus alone says (--window "
                f"{self.job.config.data.window})"
            )
        table = Table(self.job, windows)
        self._noted = table.note
        with table.writing(path):
            return self.check()

    def _text(self) -> tuple[int, int] | None:
        """Return how many units and bytes an evaluation of the last start is of."""
        corpus = self.config.get("corpus")
        told = corpus if isinstance(corpus, dict) else {}
        units, size = told.get("val_counted"), told.get("val_bytes")
        return (units, size) if isinstance(units, int) and isinstance(size, int) and size else None

    def _windows(self) -> Windows | None:
        return windows_of(self.job, self.config.get("corpus"))

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
        own, following, rare = False, None, None
        for part in parts:
            is_last = part is parts[-1]
            following, why = self._begin(part, wanted, is_last=is_last)
            if is_last and summary is not None:
                own = self._is_own(summary, following)
            ended = is_last and own and summary is not None and summary.finished
            with findings.checking("starts", self.run / METRICS):
                if following is not None:
                    best = following.header.best
                else:
                    best = best_before(self.run, self._unit, starts, part.start)
                text = self._text() if part.start is starts[-1] else None
                rare = read_rare(self.run, self._unit, part, best, text)
                if following is not None:
                    latest = part.start is starts[-1]
                    self._check_events(following, rare, ended=ended, latest=latest)
                else:
                    self._check_records(Unrecorded(self.run, part, self.job, wanted), why)
        checkpoints.verify()
        self._kept = checkpoints.sound
        sound = [each for each in self.followed if each.sound]
        checkpoints.compare(sound)
        checkpoints.check_links(sound)
        for unrecorded in self._unrecorded:
            checkpoints.compare_with_records(unrecorded.reached)
        if rare is not None:
            self._check_summary(summary, following, rare, checkpoints, own=own)
        self._check_windows(following)

    def _begin(
        self, part: Part, wanted: set[int], *, is_last: bool
    ) -> tuple[Following | None, str]:
        """Return the events of a part, ready to be followed; None if there are none, and why."""
        path, start = events_file(self.run, part.start.version), part.start
        recorded = start.events is not None if start.resumed else path.exists()
        recorded |= is_last and bool(self.config["settings"].get("record"))
        if not self.job.mode.served:
            return None, "workers made the updates by themselves"
        if not recorded:
            return None, "it was not made with --record"
        with self.findings.checking("updates", path):
            try:
                # Where hashes are missing that were there, checkpoints and summary say so.
                if start.events is None and not has_hashes(path):
                    return None, "it was recorded without hashes, as psdp did before 0.2"
                return Following(self.run, part, wanted, noted=self._noted), ""
            except OSError as error:
                text = f"{part} was recorded, and its events cannot be read: {error.strerror}"
                raise Contradiction(text) from error
        return None, "its events are contradicted"

    def _is_own(self, summary: Summary, following: Following | None) -> bool:
        own = False
        with self.findings.checking("summary", summary.path):
            own = summary.is_of(None if following is None else following.chain.start)
            if not own:
                self.findings.unchecked(
                    "summary", "what it says", "it is of an earlier start; the last has none yet"
                )
        return own

    def _check_events(self, following: Following, rare: Rare, *, ended: bool, latest: bool) -> None:
        following.follow(self.findings, ended=ended)
        self.followed.append(following)
        if following.sound:
            rare.compare(self.findings, following, whole=ended)
        if following.part.until is None:
            self._check_settings(following, OF_A_START if latest else CHANGEABLE)

    def _check_settings(self, following: Following, free: Container[str]) -> None:
        """See that config.json, which is of the latest start, has the settings of these events; but
        for what that one may have changed."""
        with self.findings.checking("settings", self.run / CONFIG):
            told = self.config["settings"]
            for name, value in following.header.settings.items():
                expect(
                    name in free or told.get(name) == value,
                    f"{name} is {told.get(name)!r}, the events are of a run with {value!r}",
                )

    def _check_records(self, unrecorded: Unrecorded, why: str) -> None:
        self._unrecorded.append(unrecorded)
        unrecorded.check(self.findings)
        what = "which gradients made which update, and that each grant came to one"
        self.findings.unchecked("updates", f"{unrecorded.part}: {what}", why)

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
                last = None
                if following is None and self._unrecorded:
                    last = self._unrecorded[-1].version, self._unrecorded[-1].units
                summary.compare(self.findings, self.job, sound, rare, last)
            summary.compare_weights(self.findings, checkpoints)
        with self.findings.checking("best", self.run):
            best = checkpoints.best()
            if best is None:
                return
            loss = rare.loss_of(best)
            if own and summary is not None and summary.finished and loss is not None:
                expect(
                    loss == rare.best_loss(),
                    f"best.json names version {best} with a validation loss of {loss}, the best "
                    f"is {rare.best_loss()}",
                )
            self.findings.proved("best", f"best.json names the checkpoint of version {best}")

    def _check_windows(self, following: Following | None) -> None:
        """Say how often windows were used by the end, as far as that is known."""
        if following is not None and not following.sound:
            why = "the events are contradicted"
            self.findings.unchecked("windows", "which of them were used", why)
            return
        job, uses = self.job, None
        if following is not None:
            job, uses = following.job, following.ledger.uses
        elif not job.deals and self._unrecorded:
            uses = Uses(job, self._unrecorded[-1].clocks, ())
        if uses is None:
            why = "batches were dealt out, and not recorded"
            self.findings.unchecked("windows", "which of them were used", why)
            return
        windows = self._windows()
        if windows is None:
            what = "each batch of each share was used once at most"
            if following is not None:
                self.findings.proved("batches", what)
            self.findings.unchecked("windows", "which they are", "the task is a program's own")
            return
        covered = coverage(job, uses, windows)
        if following is None:
            self.findings.unchecked(
                "windows", f"that, as clocks have it, {covered}", "nothing tells of each update"
            )
            return
        first = self.followed[0].header
        since = "" if first.version == 0 else f"; up to version {first.version} as clocks have it"
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
        return job_of(config["settings"], dict(config) | {"ranks": ranks_that_work(config)})
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{run / CONFIG} is of no job that this psdp knows: {type(error).__name__}: {error}"
        ) from error
