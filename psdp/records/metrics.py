"""What is measured of a run: lags, losses, waits and bytes, and the records made of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from psdp.protocol import Apply, Sums


@dataclass
class Histogram:
    """How many there were of each whole number: version lags of applied gradients, clock gaps."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.counts[number] += 1

    def mean(self) -> float:
        total = self.counts.total()
        return sum(number * n for number, n in self.counts.items()) / total if total else 0.0

    def record(self) -> dict[str, Any]:
        return {
            "mean": self.mean(),
            "max": max(self.counts, default=0),
            "histogram": {str(number): self.counts[number] for number in sorted(self.counts)},
        }


def percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """Return the least number that at least this share of all does not exceed; None if there are
    none."""
    wanted, seen = share * sum(histogram.values()), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen and seen >= wanted:
            return number
    return None


@dataclass
class Interval:
    """Updates since the last train record."""

    since_s: float
    units: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    counted: int = 0
    lags: Histogram = field(default_factory=Histogram)

    def add(self, apply: Apply, loss: float) -> None:
        self.units += apply.units
        self.updates += 1
        self.loss_sum += apply.weight * loss
        self.counted += apply.weight
        self.lags.add(apply.lags)

    @property
    def loss(self) -> float:
        """The mean loss of the units that count."""
        return self.loss_sum / self.counted

    def units_per_s(self, now_s: float) -> float:
        return self.units / max(now_s - self.since_s, 1e-9)


@dataclass
class Spread:
    """Mean and variance of numbers that come one by one (Welford 1962)."""

    n: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, number: float) -> None:
        self.n += 1
        apart = number - self.mean
        self.mean += apart / self.n
        self._squares += apart * (number - self.mean)

    @property
    def std(self) -> float:
        """The sample standard deviation; 0 of fewer than two."""
        return math.sqrt(self._squares / (self.n - 1)) if self.n > 1 else 0.0


class StepTimes:
    """How long the steps of workers took whose gradients were applied, and how long the slowest of
    those that were applied together.

    Of each there are two times: as it was, and what it would have been with a core always at hand,
    what slowed the worker on purpose included. Each worker's first step counts in neither: caches
    are cold, and memory is touched for the first time.
    """

    def __init__(self) -> None:
        self._workers: defaultdict[int, tuple[Spread, Spread]] = defaultdict(_two)
        self._rounds = 0
        self._sums = [0.0] * 4
        self._begun: set[int] = set()

    def add(self, times: Mapping[int, tuple[float, float]]) -> None:
        """Take the two times of each worker whose gradient is in an update."""
        known = {worker: both for worker, both in times.items() if worker in self._begun}
        self._begun.update(times)
        for worker, both in known.items():
            for spread, time_s in zip(self._workers[worker], both, strict=True):
                spread.add(time_s)
        if len(known) > 1:
            self._rounds += 1
            for index, of_all in enumerate(zip(*known.values(), strict=True)):
                self._sums[2 * index] += sum(of_all) / len(of_all)
                self._sums[2 * index + 1] += max(of_all)

    def record(self) -> dict[str, Any]:
        workers = {
            str(worker): {"n": took.n, "mean_s": took.mean, "std_s": took.std}
            | {"own_s": own.mean, "own_std_s": own.std}
            for worker, (took, own) in sorted(self._workers.items())
        }
        return {"workers": workers, "rounds": self._of_rounds() if self._rounds else None}

    def account(self) -> dict[str, Any]:
        """Return what another rank needs to go on with these."""
        return {
            "workers": [(n, *map(astuple, both)) for n, both in self._workers.items()],
            "rounds": self._rounds,
            "sums": self._sums,
            "begun": list(self._begun),
        }

    def go_on(self, account: Mapping[str, Any]) -> None:
        """Go on where another rank's :meth:`account` ends."""
        for worker, took, own in account["workers"]:
            self._workers[worker] = Spread(*took), Spread(*own)
        self._rounds, self._sums = account["rounds"], list(account["sums"])
        self._begun = {*account["begun"]}

    def _of_rounds(self) -> dict[str, Any]:
        names = "mean_s", "slowest_s", "own_s", "slowest_own_s"
        means = (total / self._rounds for total in self._sums)
        return {"n": self._rounds, **dict(zip(names, means, strict=True))}


def _two() -> tuple[Spread, Spread]:
    return Spread(), Spread()


@dataclass
class Best:
    """The best validation loss so far, how many evaluations ago it was, and the version that was
    evaluated last; kept with checkpoints."""

    loss: float = math.inf
    evaluations_since: int = 0
    evaluated: int = -1
    version: int = -1

    def better(self, loss: float, version: int) -> bool:
        """Take the validation loss of a version; say whether it is the best."""
        self.evaluated = version
        if loss < self.loss:
            self.loss, self.evaluations_since, self.version = loss, 0, version
            return True
        self.evaluations_since += 1
        return False

    def record(self) -> dict[str, Any]:
        return {
            "val_loss": finite(self.loss),
            "evaluations_since": self.evaluations_since,
            "evaluated": self.evaluated,
            "version": self.version,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Best:
        loss = record["val_loss"]
        since, evaluated = record["evaluations_since"], record["evaluated"]
        version = record.get("version", -1)  # 0.2 did not say
        return cls(math.inf if loss is None else loss, since, evaluated, version)


def finite(value: float) -> float | None:
    """Return a number that JSON can hold: NaN and Inf become None."""
    return value if math.isfinite(value) else None


def bits_per_byte(loss: float, units: int, size: int) -> float:
    """Return a loss in nats a unit, the mean of so many that stand for ``size`` bytes, in bits a
    byte: comparable between tokenizers."""
    return loss * units / (math.log(2) * size)


def perplexity(loss: float) -> float | None:
    """Return exp of a loss in nats, None where that is beyond a float."""
    return math.exp(loss) if loss < 700 else None


def measures_of(total: Sums, size: int) -> dict[str, float | None]:
    """Return all that can be measured in an evaluation, of a text of so many bytes if of any."""
    loss = total.loss / total.units
    return {
        "perplexity": perplexity(loss),
        "accuracy": total.correct / total.units,
        "bits_per_byte": finite(bits_per_byte(loss, total.units, size)) if size else None,
    }


def told_in_line(measures: Mapping[str, float | None]) -> str:
    """Return these as a line goes on with them."""
    said = {
        "perplexity": "perplexity {:.2f}",
        "accuracy": "accuracy {:.3f}",
        "bits_per_byte": "{:.3f} bits/byte",
    }
    known = {name: math.inf if of is None else of for name, of in measures.items()}
    return "".join(f"  {said[name].format(of)}" for name, of in known.items())
