"""Records between those of updates: evaluations, moves, changes of mode, and servers lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.audit.findings import UNTOLD, Contradiction, Findings, expect, many
from psdp.audit.following import Following
from psdp.audit.starts import Part, Record, Start, read_metrics
from psdp.records.folder import METRICS
from psdp.records.metrics import bits_per_byte, perplexity

KINDS = ("eval", "move", "mode", "failure", "join", "takeover", "standby")


@dataclass(frozen=True)
class Rare:
    """Those of a part of the run.

    Attributes:
        best: the best validation loss before, as the start's checkpoint knew it; None if there was
            none, or nothing says so.
        text: how many units and bytes an evaluation is of; None where nothing says so.
    """

    run: Path
    part: Part
    evaluations: tuple[Record, ...]
    moves: tuple[Record, ...]
    modes: tuple[Record, ...]
    failures: tuple[Record, ...]
    joins: tuple[Record, ...]
    takeovers: tuple[Record, ...]
    standbys: tuple[Record, ...]
    best: float | None = None
    text: tuple[int, int] | None = None

    def summed_up(self) -> dict[str, Any]:
        """Return what a summary of this start is to say of these.

        Raises:
            Contradiction: a loss is no number.
        """
        last = self.evaluations[-1] if self.evaluations else None
        return {
            "val_loss": None if last is None else last.number("val_loss"),
            "best_val_loss": self.best_loss(),
            "moves": len(self.moves),
            "failures": len(self.failures) + len(self._holders),
            "spares_failed": sum(record.content.get("spare") is True for record in self.failures),
            "joins": len(self.joins),
            "takeovers": len(self.takeovers),
            "modes": [
                {"version": record.version, "mode": record.content.get("mode")}
                for record in self.modes
            ],
        }

    @property
    def _holders(self) -> tuple[Record, ...]:
        """The losses of ranks that held a shard."""
        return self.takeovers + self.standbys

    def best_loss(self) -> float | None:
        """Return the best validation loss by the end.

        Raises:
            Contradiction: a loss is no number.
        """
        losses = [record.number("val_loss") for record in self.evaluations]
        known = [loss for loss in (self.best, *losses) if loss is not None]
        return min(known, default=None)

    def loss_of(self, version: int) -> float | None:
        """Return the validation loss of a version; None if it was not evaluated here."""
        losses = [each.number("val_loss") for each in self.evaluations if each.version == version]
        return losses[-1] if losses else None

    def compare(self, findings: Findings, following: Following, *, whole: bool) -> None:
        """Compare these with the events of the start.

        Args:
            whole: whether the start came to an end of its own.
        """
        path = self.run / METRICS
        tally = following.ledger.tally
        with findings.checking("moves", path):
            told = [
                tuple(record.content.get(name) for name in ("worker", "from", "to"))
                for record in self.moves
            ]
            during = told
            # While the last version is evaluated, nothing is decided any more.
            if following.drained:
                last = following.ledger.version
                early = sum(record.version < last for record in self.moves)
                during = told[: max(early, len(tally.moves))]
            _expect_same(during, tally.moves, "the moves", self.moves, whole)
            modes = [record.content.get("mode") for record in self.modes]
            _expect_same(modes, tally.modes, "the changes of mode", self.modes, whole)
            if told or modes:
                what = many(len(told), "move"), many(len(modes), "change")
                findings.proved("moves", f"{what[0]} and {what[1]} of mode, as the events have it")
        with findings.checking("takeovers", path):
            self._compare_losses(findings, tally.lost, whole=whole)
        with findings.checking("evaluations", path):
            self._compare_evaluations(following, whole=whole)
            if self.evaluations:
                findings.proved(
                    "evaluations",
                    f"{many(len(self.evaluations), 'record')} of versions that were to be "
                    "evaluated, with the units that were in them",
                )
                losses = "the validation losses, and what was measured beside them"
                findings.unchecked("evaluations", losses, UNTOLD)

    def _compare_losses(self, findings: Findings, lost: Sequence[int], *, whole: bool) -> None:
        """See that the ranks that held a shard and are lost are those of the events."""
        told = [record.content.get("from") for record in self._holders]
        for record, rank in zip(self._holders, told, strict=True):
            known = rank in lost or not whole
            expect(known, f"rank {rank} was not lost, as the events have it", record.place)
        missing = {*lost} - {*told}
        expect(not whole or not missing, f"the loss of rank(s) {sorted(missing)} is not recorded")
        if lost:
            findings.proved("takeovers", f"without rank(s) {told} others went on where they were")

    def _compare_evaluations(self, following: Following, *, whole: bool) -> None:
        for record in self.evaluations:
            state = following.states.get(record.version)
            if state is None:
                text = f"version {record.version} was not to be evaluated"
                raise Contradiction(text, record.place)
            expect(
                record.units == state.units,
                f"version {record.version} has {state.units} {following.job.units_name}, "
                f"evaluated were {record.units}",
                record.place,
            )
            self._compare_measures(record)
        done = {record.version for record in self.evaluations}
        missing = [version for version in following.due if version not in done]
        if whole and done and missing:
            raise Contradiction(f"there is no evaluation of version {missing[0]}, which was due")

    def _compare_measures(self, record: Record) -> None:
        """See that what follows from the loss is told as it does."""
        loss = record.number("val_loss")
        expected = {"perplexity": None if loss is None else perplexity(loss)}
        if self.text is not None:
            expected["bits_per_byte"] = None if loss is None else bits_per_byte(loss, *self.text)
        for name in expected.keys() & record.content.keys():
            told, made = record.number(name), expected[name]
            text = f"{name} is {told}, a validation loss of {loss} makes it {made}"
            expect(told == made, text, record.place)


def read_rare(
    run: Path, unit: str, part: Part, best: float | None, text: tuple[int, int] | None
) -> Rare:
    """Return those of a part of the run; see :class:`Rare`.

    Raises:
        Contradiction: a line is no record.
    """
    found: dict[str, list[Record]] = {kind: [] for kind in KINDS}
    for record in read_metrics(run, unit, part.start.lines, *KINDS):
        if part.holds(record.version):
            found[record.kind].append(record)
    evals, moves, modes, *others = (tuple(found[kind]) for kind in KINDS)
    failures, joins, takeovers, standbys = others
    return Rare(run, part, evals, moves, modes, failures, joins, takeovers, standbys, best, text)


def best_before(run: Path, unit: str, starts: Sequence[Start], start: Start) -> float | None:
    """Return the best validation loss of the versions from which a start goes on.

    Raises:
        Contradiction: a line is no record, or a loss no number.
    """
    losses: list[float | None] = []
    until = start.version
    for earlier in reversed(starts[: starts.index(start)]):
        evaluations = read_metrics(run, unit, earlier.lines, "eval")
        losses += [each.number("val_loss") for each in evaluations if each.version <= until]
        until = min(until, earlier.version)
    return min((loss for loss in losses if loss is not None), default=None)


def _expect_same(
    told: Sequence[Any], counted: Sequence[Any], what: str, records: Sequence[Record], whole: bool
) -> None:
    """See that two lists are the same, as far as both go; of a start that was cut off one may go
    further."""
    for number, (one, other) in enumerate(zip(told, counted, strict=False)):
        place = records[number].place
        expect(one == other, f"{what} are {one} here, in the events {other}", place)
    same = len(told) == len(counted)
    expect(same or not whole, f"{what} are {len(told)}, in the events {len(counted)}")
