"""Following the events of a start to its end, or to where a later one goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from psdp.audit.deciding import Chain, Deciding
from psdp.audit.findings import UNTOLD, Contradiction, Findings, Place, expect, many
from psdp.audit.jobs import Header
from psdp.audit.ledger import Ledger, Used, in_rounds, mode_at_first
from psdp.audit.starts import Part, read_metrics
from psdp.audit.training import TrainRecords, steps_of
from psdp.protocol import Apply, Leave, Push
from psdp.records.events import Seal, events_file


@dataclass(frozen=True)
class State:
    """What had gone into the weights of a version, and how far the record had come with it."""

    version: int
    units: int
    clocks: Mapping[int, int]
    batches: list[tuple[int, int]]
    lags: Mapping[int, int]
    seal: Seal


def ledger_of(header: Header, noted: Callable[[Used], None] | None) -> Ledger:
    """Return the ledger of a start, as it begins."""
    job = header.job
    return Ledger(
        job,
        version=header.version,
        units=header.units,
        clocks=header.clocks,
        batches=header.batches,
        mode=mode_at_first(job),
        noted=noted,
    )


class Following:
    """The events of a part of a run, followed.

    Args:
        wanted: versions of which states are kept, besides the first and the last.
        noted: called with each push that goes into an update.

    Attributes:
        states: by version.
        due: versions that are to be evaluated.
        void: lines after the last that counts.
        sound: whether all of it could be followed.

    Raises:
        OSError: there are no events.
        Contradiction: they do not say of which job they are.
    """

    def __init__(
        self,
        run: Path,
        part: Part,
        wanted: Collection[int],
        *,
        noted: Callable[[Used], None] | None = None,
    ) -> None:
        self.part = part
        self.chain = Chain(events_file(run, part.start.version))
        self.header: Header = self.chain.header
        header = self.header
        self.job = header.job
        self.ledger = ledger_of(header, noted)
        self.states = {header.version: self._state()}
        self.due: list[int] = []
        self.void = 0
        self.sound = False
        self._ends_step = steps_of(self.job)
        self._eval_every = self.job.config.run.eval_every
        self._run = run
        self._wanted = wanted
        self._records = read_metrics(run, self.job.task.unit, part.start.lines, "train")
        self._training = TrainRecords(self.job, self._records, self.ledger)
        self._deciding = Deciding(header, self.ledger, self._updated)

    @property
    def path(self) -> Path:
        return self.chain.path

    @property
    def drained(self) -> bool:
        """Whether the last update of the budget was decided."""
        return self._deciding.drained

    @property
    def clock_gaps(self) -> Mapping[int, int]:
        """With which clock gaps workers were told to go on since the last term began, and how many
        of each."""
        return self._deciding.policy.clock_gaps

    def follow(self, findings: Findings, *, ended: bool) -> None:
        """Follow the events to the end; take down what that shows.

        Args:
            ended: whether the start came to an end of its own, so that nothing is cut off.
        """
        name, until = self.path.name, self.part.until
        with findings.checking("updates", self.path):
            expect(
                self.header.version == self.part.start.version,
                f"{name} is of a start from version {self.header.version}",
                Place(self.path, 1),
            )
            self._check_begun()
            for line in self.chain:
                if until is not None and self.ledger.version >= until:
                    self.void += 1
                    continue
                try:
                    self._deciding.take(line.content)
                except Contradiction as found:
                    place = found.place or Place(self.path, line.number)
                    raise Contradiction(str(found), place) from None
            if until is None:
                self._training.close(whole=ended)
                self.states.setdefault(self.ledger.version, self._state())
            else:
                expect(
                    self.ledger.version == until,
                    f"the events end with version {self.ledger.version}, a later start goes on "
                    f"from {until}",
                    Place(self.path, self.chain.seal.line),
                )
            self.sound = True
        self.chain.close()
        self._records.close()
        self._tell_chain(findings)
        if self.sound:
            self._tell(findings)

    def _check_begun(self) -> None:
        """See that metrics.jsonl tells of this very start."""
        start = self.part.start
        if start.resumed:
            expect(
                start.events == self.chain.start,
                f"the record of the start from version {start.version} is not the one that "
                "metrics.jsonl tells of",
                Place(self.path, 1),
            )
            expect(start.units == self.header.units, "it goes on from other units than it says")

    def _updated(self, apply: Apply, loss: float, event: Push | Leave) -> None:
        self._training.updated(apply, loss, event)
        version, units = apply.version, self.ledger.units
        due = self._ends_step(self._eval_every, units - apply.units, units)
        if due:
            self.due.append(version)
        if due or version in self._wanted or version == self.part.until:
            self.states[version] = self._state()

    def _state(self) -> State:
        ledger, seal = self.ledger, self.chain.seal
        batches = ledger.uses.batches()
        return State(
            ledger.version, ledger.units, dict(ledger.clocks), batches, dict(ledger.lags), seal
        )

    def _tell_chain(self, findings: Findings) -> None:
        chain = self.chain
        if chain.broken is not None:
            findings.contradicted_by(
                "hashes",
                "the line, or one before it, was changed, removed or moved: its hash does not "
                "follow",
                Place(self.path, chain.broken),
            )
            return
        notes = ""
        if self.void:
            notes += (
                f"; the last {self.void:,} are void, since the run went on from version "
                f"{self.part.until}"
            )
        if chain.void:
            notes += f"; {chain.void:,} are void, since they were under way when a server was lost"
        if chain.cut_off:
            notes += "; a last line was cut off with its run, or is being written"
        findings.proved("hashes", f"{self.path.name}: {many(chain.seal.line, 'line')}{notes}")

    def _tell(self, findings: Findings) -> None:
        ledger, job, start = self.ledger, self.job, self.header
        tally, name = ledger.tally, self.path.name
        dropped, still = tally.dropped.total(), len(ledger.open)
        more = "".join(
            f", {count:,} {what}"
            for count, what in (
                (dropped, "of them too late and dropped"),
                (tally.begun_again, "begun again by another rank"),
                (tally.returned, "returned by workers that left"),
                (tally.void, "void with the loss of a server"),
                (still, "out at the end"),
            )
            if count
        )
        findings.proved(
            "grants",
            f"{name}: {tally.granted:,} given out, {tally.pushed:,} answered by one push{more}",
        )
        clocks = sorted(ledger.clocks.values())
        findings.proved(
            "versions",
            f"{name}: {ledger.version - start.version:,} updates from version {start.version} to "
            f"{ledger.version}, each made once of what was pushed; clocks of "
            f"{many(len(clocks), 'worker')} rise to {clocks[0]} to {clocks[-1]} without gaps; "
            f"{sum(clocks):,} of {job.gradients:,} gradients of the budget",
        )
        if ledger.bound is not None and not tally.modes:
            findings.proved(
                "staleness",
                f"{name}: workers went on {ledger.widest} clocks ahead of the slowest at most, of "
                f"{ledger.bound} allowed",
            )
        if in_rounds(job, job.mode.name):
            findings.proved("rounds", f"{name}: each update waited for all that it was to have")
        findings.proved(
            "train records",
            f"metrics.jsonl: {many(self._training.count, 'record')}; loss, learning rate, lag and "
            "clocks are those of the events to the last bit",
        )
        means = self._training.count - self._training.norms
        if means:
            what = f"grad_norm of {many(means, 'record')}, of means of several gradients"
            findings.unchecked("train records", what, UNTOLD)
