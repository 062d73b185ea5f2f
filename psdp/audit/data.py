"""Which batches a run has used, and what that means for the windows of its corpus."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psdp.audit.findings import Contradiction
from psdp.config import PACKED
from psdp.data.partition import Partition
from psdp.data.windows import Elsewhere, Grid, Windows
from psdp.job import Job


class Numbers:
    """A set of whole numbers as few ranges, which knows when one comes again."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(range(start, stop))

    def add(self, numbers: range) -> None:
        """Add these numbers.

        Raises:
            Contradiction: one of them is in the set.
        """
        start, stop = numbers.start, numbers.stop
        index = bisect_right(self._starts, start)
        if index and self._stops[index - 1] > start:
            raise Contradiction(f"batch {start} was used before")
        if index < len(self._starts) and self._starts[index] < stop:
            raise Contradiction(f"batch {self._starts[index]} was used before")
        if index < len(self._starts) and self._starts[index] == stop:
            stop = self._stops.pop(index)
            del self._starts[index]
        if index and self._stops[index - 1] == start:
            self._stops[index - 1] = stop
        else:
            self._starts.insert(index, start)
            self._stops.insert(index, stop)

    def pairs(self) -> list[tuple[int, int]]:
        """Return (first, last + 1) of each range, rising."""
        return list(zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def first_missing(self) -> int:
        """The least number from 0 on that is not in the set."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0


class Uses:
    """The batches of each share of the data that have gone into an update.

    Where rank 0 deals batches out there is one share, and everybody's batches are of it.

    Args:
        clocks, batches: used before, where nothing is known of how.
    """

    def __init__(
        self, job: Job, clocks: Mapping[int, int], batches: Iterable[tuple[int, int]]
    ) -> None:
        self._deals = job.deals
        if self._deals:
            self.of = {0: Numbers(batches)}
        else:
            self.of = {
                job.slot_of(worker): Numbers([(0, clock)] if clock else [])
                for worker, clock in clocks.items()
            }

    def add(self, slot: int, batches: range) -> None:
        """Take down that these batches of a worker have gone into an update.

        Raises:
            Contradiction: one of them had before.
        """
        self.of[0 if self._deals else slot].add(batches)

    def batches(self) -> list[tuple[int, int]]:
        """Return the batches of a deck that have been used."""
        return self.of[0].pairs() if self._deals else []


@dataclass(frozen=True)
class Coverage:
    """How often windows have been used, by epoch.

    Attributes:
        windows: of an epoch.
        whole: epochs of which every window was used, once.
        begun: later epochs of which some were.
        more: windows of these that were used, once each.
    """

    windows: int
    whole: int
    begun: int
    more: int

    def __str__(self) -> str:
        parts = []
        if self.whole:
            which = "epoch 0" if self.whole == 1 else f"epochs 0 to {self.whole - 1}"
            parts.append(f"each of the {self.windows:,} windows of {which} was used once")
        if self.begun:
            last = self.whole + self.begun - 1
            which = f"epoch {last}" if self.begun == 1 else f"epochs {self.whole} to {last}"
            parts.append(f"of {which}, {self.more:,} were used so far, once each")
        return "; ".join(parts) or "no window was used"


def windows_of(job: Job, record: Any) -> Windows | None:
    """Return the windows of the corpus that config.json tells of so; None if it has none."""
    if not isinstance(record, dict) or not isinstance(record.get("train_tokens"), int):
        return None
    size, block_size = record["train_tokens"], job.config.model.block_size
    if job.config.data.window == PACKED:
        return Grid(size, block_size, job.config.run.seed)
    return Elsewhere(size, block_size, int(record["windows"]), int(record["train_counted"]))


def coverage(job: Job, uses: Uses, windows: Windows) -> Coverage:
    """Return what the batches used so far mean for the windows of a corpus."""
    size, accum = job.config.run.batch_size, job.config.run.grad_accum
    parts = partitions(job, windows)
    counts = {share: len(numbers) * accum * size for share, numbers in uses.of.items()}
    # The samples up to here are all used, of each share's own order or of the one they deal.
    ends = {
        share: parts[share].sample(numbers.first_missing * accum, size)
        for share, numbers in uses.of.items()
    }
    whole = min(end // parts[share].windows for share, end in ends.items())
    begun = max(
        _epochs_begun(parts[share], numbers, accum, size) for share, numbers in uses.of.items()
    )
    used = sum(counts.values())
    more = used - whole * windows.count
    return Coverage(windows.count, whole, max(0, begun - whole), more)


def _epochs_begun(part: Partition, numbers: Numbers, accum: int, size: int) -> int:
    """Return how many epochs a share has begun."""
    pairs = numbers.pairs()
    if not pairs:
        return 0
    last = part.sample(pairs[-1][1] * accum - 1, size) + size - 1
    return last // part.windows + 1


def partitions(job: Job, windows: Windows) -> dict[int, Partition]:
    """Return each share's part of the windows."""
    config = job.config
    shares = {share.worker: share for share in map(job.share, job.workers)}
    how: dict[str, Any] = {"kind": config.data.partition, "seed": config.run.seed}
    return {
        number: Partition(windows, worker=number, workers=share.workers, **how)
        for number, share in shares.items()
    }
