"""Computing updates once more, bit for bit: some, chosen by whoever reads the run.

A part of the record is replayed by the whole system, its ranks threads of this process, from a
checkpoint or from the start. A gradient whose loss or norm differs in one bit ends the replay; and
the checkpoints on the way must have the bytes of those that the run kept.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from psdp.audit.checkpoints import Kept
from psdp.audit.deciding import Chain, Deciding
from psdp.audit.findings import Contradiction, Findings, Place, many
from psdp.audit.following import Following, State, ledger_of
from psdp.audit.ledger import Used
from psdp.audit.replaying import live, others_here
from psdp.checkpoint import CHECKPOINTS, read_manifest
from psdp.checkpoint.layout import complete_checkpoints
from psdp.config.handicap import AT_FULL_SPEED
from psdp.errors import PsdpError, ReplayError
from psdp.job import Job
from psdp.records.events import Line, NewTerm, events_file
from psdp.records.folder import CONFIG

AS_FAST_AS_CAN_BE = {
    **AT_FULL_SPEED, "profile": False, "keep_checkpoints": 0, "standby": False, "sample_every": 0,
}  # fmt: skip
"""Settings that have no say in what is computed."""

WITHOUT_EVALUATIONS = {"eval_every": 0, "eval_batches": 0, "early_stop_patience": 0}
"""Of a run that pushes gradients in rounds these change no update."""


@dataclass(frozen=True)
class Stretch:
    """What is computed in one go: the updates of a start up to version ``last``.

    Attributes:
        state: that it begins from; None: as the start did.
        checkpoint: of that.
        chosen: versions that were asked for.
    """

    following: Following
    state: State | None
    checkpoint: Kept | None
    chosen: tuple[int, ...]

    @property
    def begin(self) -> int:
        """The version that it begins from."""
        return self.following.header.version if self.state is None else self.state.version

    @property
    def last(self) -> int:
        return self.chosen[-1]

    def __str__(self) -> str:
        return "the start of all" if self.checkpoint is None else self.checkpoint.at.name


class Recomputing:
    """Computes updates of a run once more.

    Args:
        config: of its last start.
        kept: its checkpoints, by version.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        followed: Sequence[Following],
        kept: Mapping[int, Kept],
        findings: Findings,
    ) -> None:
        self._config = config
        self._followed = [following for following in followed if following.sound]
        self._kept = kept
        self._findings = findings

    def recompute(self, count: int, seed: int) -> None:
        """Compute so many updates again, chosen by a seed; take down what comes of it."""
        if "task" in self._config:
            self._unchecked("the updates", "the task is a program's own")
            return
        if not self._followed:
            self._unchecked("the updates", "there are no events that could be followed")
            return
        for stretch in self._stretches(self._choose(count, seed)):
            text = ", ".join(map(str, stretch.chosen))
            try:
                self._recompute(stretch, seed)
            except (PsdpError, OSError) as error:
                self._unchecked(f"version {text} from {stretch}", str(error))

    def _choose(self, count: int, seed: int) -> dict[int, list[int]]:
        """Return the chosen versions, rising, by the number of the start that made them."""
        made = [
            range(following.header.version + 1, following.ledger.version + 1)
            for following in self._followed
        ]
        everything = range(sum(map(len, made)))
        chosen: defaultdict[int, list[int]] = defaultdict(list)
        for index in sorted(random.Random(seed).sample(everything, min(count, len(everything)))):
            number = 0
            while index >= len(made[number]):
                index -= len(made[number])
                number += 1
            chosen[number].append(made[number][index])
        return chosen

    def _stretches(self, chosen: Mapping[int, list[int]]) -> Iterator[Stretch]:
        """Yield what is to be computed: of each start, from the nearest checkpoint before each
        version from which that is possible."""
        for number, versions in chosen.items():
            following = self._followed[number]
            begins = self._begins(following)
            of_begin: defaultdict[int, list[int]] = defaultdict(list)
            for version in versions:
                of_begin[max(begin for begin in begins if begin < version)].append(version)
            for begin, own in of_begin.items():
                header, kept = following.header, self._kept.get(begin)
                state = None if begin == header.version else following.states[begin]
                if state is None and (kept is None or kept.manifest.digest != header.digest):
                    kept = None
                yield Stretch(following, state, kept, tuple(own))

    def _begins(self, following: Following) -> list[int]:
        """Return the versions that a replay may begin from."""
        first = following.header.version
        if not following.job.begins_anywhere:
            return [first]
        kept = [v for v in self._kept if v in following.states and v > first]
        return [first, *kept]

    def _recompute(self, stretch: Stretch, seed: int) -> None:
        """
        Raises:
            PsdpError, OSError: it cannot be computed.
        """
        if stretch.following.header.checkpoint is not None and stretch.checkpoint is None:
            self._unchecked(
                f"versions {', '.join(map(str, stretch.chosen))}",
                f"the checkpoint of version {stretch.begin} that they come after is gone",
            )
            return
        with tempfile.TemporaryDirectory(prefix="psdp-audit-") as folder:
            recorded, again = Path(folder) / "recorded", Path(folder) / "again"
            used = self._write(stretch, recorded)
            given: dict[str, Any] = {"replay": str(recorded), "out": str(again), "quiet": True}
            if stretch.checkpoint is not None:
                given["resume"] = str(stretch.checkpoint.manifest.folder)
            try:
                live(given, ranks_of(stretch.following.job))
                same = self._compare(stretch, again)
            except ReplayError as error:
                self._diverged(stretch, str(error), others_here(self._config, again))
                return
        for version in stretch.chosen:
            self._findings.proved(
                "recomputed",
                f"update {version} (seed {seed}), from {stretch}: {_made_of(used[version])}, with "
                "loss and norm to the last bit",
            )
        if same:
            self._findings.proved(
                "recomputed",
                f"{many(same, 'checkpoint')} after {stretch}, up to version {stretch.last}: "
                "weights and optimizer have the same bytes",
            )

    def _write(self, stretch: Stretch, folder: Path) -> dict[int, list[Used]]:
        """Write a run to be replayed; return of each version what it is made of."""
        header = stretch.following.header
        settings = dict(header.settings) | AS_FAST_AS_CAN_BE
        match self._config.get("threads"):
            case [*_, int(threads)]:
                settings["threads"] = threads
        if stretch.state is not None:
            settings |= WITHOUT_EVALUATIONS
        job = header.job
        told = {"settings": settings, "workers": len(job.workers), "servers": len(job.servers)}
        hosts = ["here"] * ranks_of(job)
        config = dict(self._config) | told | {"hosts": hosts, "standbys": 0}
        folder.mkdir()
        (folder / CONFIG).write_text(json.dumps(config))
        used: defaultdict[int, list[Used]] = defaultdict(list)

        def note(each: Used) -> None:
            used[each.version].append(each)

        with events_file(folder, stretch.begin).open("w", encoding="utf-8") as file:
            for content in lines_of(stretch, note):
                file.write(json.dumps(content) + "\n")
        return used

    def _compare(self, stretch: Stretch, again: Path) -> int:
        """Compare the checkpoints that were made again; return how many are the same.

        Raises:
            ReplayError: one is another.
        """
        same = 0
        for folder in complete_checkpoints(again / CHECKPOINTS).values():
            made = read_manifest(folder)
            kept = self._kept.get(made.state["version"])
            if kept is None or kept.version <= stretch.begin:
                continue
            if made.files != kept.manifest.files:
                raise ReplayError(
                    f"the checkpoint of version {kept.version} has other bytes when it is made "
                    f"again: {[file.sha256 for file in made.files]}, kept are "
                    f"{[file.sha256 for file in kept.manifest.files]}"
                )
            same += 1
        return same

    def _diverged(self, stretch: Stretch, what: str, other: str) -> None:
        """Take down that something else was computed here: a contradiction, unless what is other
        here may be the reason."""
        if other:
            self._unchecked(f"from {stretch}: {what}", f"here {other}")
        else:
            self._findings.contradicted_by("recomputed", what, Place(stretch.following.path))

    def _unchecked(self, what: str, why: str) -> None:
        self._findings.unchecked("recomputed", what, why)


def _made_of(used: Sequence[Used]) -> str:
    """Return what an update is made of, in words."""
    told = [f"{each.push.work.clock} of worker {each.worker}" for each in used[:_TOLD]]
    more = f" and {len(used) - _TOLD} more" if len(used) > _TOLD else ""
    return f"{'gradient' if len(used) == 1 else 'gradients'} {', '.join(told)}{more}"


_TOLD = 4


def ranks_of(job: Job) -> int:
    """Return how many ranks compute a run once more: none needs to stand by."""
    return len(job.servers) + len(job.worker_ranks)


def _that_count(lines: Iterable[Line]) -> Iterator[list[Any]]:
    """Yield the pushes of a run in rounds among some lines, but for those that a new term made
    void: on the version in which it begins."""
    kept: list[list[Any]] = []
    for line in lines:
        match line.content:
            case ["push", _, _, int(version), *_] as push:
                if kept and kept[-1][3] < version:
                    yield from kept
                    kept = []
                kept.append(push)
            case [NewTerm.NAME, _, int(version), *_]:
                kept = [push for push in kept if push[3] < version]
    yield from kept


def lines_of(stretch: Stretch, noted: Any) -> Iterator[list[Any]]:
    """Yield the events of a stretch; ``noted`` is told of what goes into its updates.

    Raises:
        ReplayError: they cannot be replayed from there.
    """
    following, state = stretch.following, stretch.state
    header, begun = following.header, Chain(following.path)
    lines: Iterator[list[Any]] = (line.content or [] for line in begun)
    if state is not None:
        header = replace(
            header,
            version=state.version,
            units=state.units,
            clocks=state.clocks,
            batches=tuple(state.batches),
        )
        # Evaluations are left out, and who computes: all begin with the weights of this version.
        asked = (["pull", worker] for worker in header.job.workers)
        lines = chain(asked, _that_count(line for line in begun if line.number > state.seal.line))
    ledger = ledger_of(header, noted)
    deciding = Deciding(header, ledger, lambda apply, loss, event: None)
    with closing(begun):
        for content in lines:
            match content:
                # What is void is left out here, and who held shards makes no difference.
                case [NewTerm.NAME, number, version, _, _, _, *more]:
                    content = [NewTerm.NAME, number, version, 0, [], [], *more]
            try:
                deciding.take(content)
            except Contradiction as error:
                raise ReplayError(f"from version {header.version}: {error}") from error
            yield content
            match content:
                # What an update makes shows by the loss of a gradient on it.
                case ["push", _, _, on, *_] if on >= stretch.last:
                    return
