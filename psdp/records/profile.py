"""Where the time of a rank goes: costs by kind of work, and the table that shows them.

Loops say what they are at (:meth:`Spans.span`); what a profile is attached to beyond that, such as
the layers of a model, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

OTHER = "other"
"""What a loop does between the kinds that have a name."""
UPDATE = "update"
"""What the optimizer does, the mean of gradients apart."""


@dataclass
class Cost:
    """What one kind of work has taken so far."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: int = 0


class Spans:
    """What a loop tells of its work. This one takes no note of it.

    Attributes:
        costs: by kind of work.
        steps: that are complete.
    """

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self.steps = 0
        self._nothing: AbstractContextManager[None] = nullcontext()

    @property
    def seconds(self) -> float:
        """Of all kinds together."""
        return sum(cost.seconds for cost in self.costs.values())

    def span(self, kind: str, traffic: int = 0) -> AbstractContextManager[None]:
        """Return a context whose time counts for ``kind``; ``traffic``: bytes of the arrays that
        are read or written in it, each once."""
        return self._nothing

    def add(self, kind: str, seconds: float, traffic: int = 0) -> None:
        """Note work that was measured elsewhere, outside of all spans."""

    def step(self) -> None:
        """Note that a step is complete."""


UNPROFILED = Spans()


class Profile(Spans):
    """Costs by kind of work.

    Time is exclusive: inside a span, another interrupts it. So all costs add up to the time inside
    of spans, and what was added.

    Args:
        now: a clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._now = now
        self._open: list[Cost] = []
        self._since = 0.0

    @property
    def running(self) -> bool:
        """Whether a span is open."""
        return bool(self._open)

    @contextmanager
    def span(self, kind: str, traffic: int = 0) -> Iterator[None]:
        cost = self._cost(kind)
        self._charge()
        # A layer that calls itself by another of its methods has been called once.
        cost.calls += not (self._open and self._open[-1] is cost)
        cost.bytes += traffic
        self._open.append(cost)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def add(self, kind: str, seconds: float, traffic: int = 0) -> None:
        cost = self._cost(kind)
        cost.calls += 1
        cost.seconds += seconds
        cost.bytes += traffic

    def step(self) -> None:
        self.steps += 1

    def count(self, flops: float, traffic: int) -> None:
        """Note arithmetic, and bytes of arrays, for the innermost open span."""
        self._open[-1].flops += flops
        self._open[-1].bytes += traffic

    def _cost(self, kind: str) -> Cost:
        return self.costs.setdefault(kind, Cost())

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            self._open[-1].seconds += now - self._since
        self._since = now

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {"steps": self.steps, "costs": {k: asdict(cost) for k, cost in self._sorted()}}

    def table(self) -> str:
        """Return a table by kind, the most expensive first."""
        costs, steps = self._sorted(), max(self.steps, 1)
        total = Cost(
            seconds=sum(cost.seconds for _, cost in costs),
            flops=sum(cost.flops for _, cost in costs),
            bytes=sum(cost.bytes for _, cost in costs),
        )
        lines = [f"{'':14}{'ms/step':>9}{'share':>8}{'calls/step':>12}{'GFLOP/s':>9}{'GB/s':>8}"]
        for kind, cost in [*costs, ("all", total)]:
            share = cost.seconds / total.seconds if total.seconds else 0.0
            calls = f"{cost.calls / steps:.3g}" if cost.calls else ""
            lines.append(
                f"{kind:14}{1e3 * cost.seconds / steps:9.2f}{share:8.1%}{calls:>12}"
                f"{_rate(cost.flops, cost.seconds):>9}{_rate(cost.bytes, cost.seconds):>8}".rstrip()
            )
        return "\n".join(lines)

    def _sorted(self) -> list[tuple[str, Cost]]:
        return sorted(self.costs.items(), key=lambda item: -item[1].seconds)


def _rate(amount: float, seconds: float) -> str:
    """Return billions a second as text, nothing where there are none."""
    return f"{amount / seconds / 1e9:.1f}" if amount and seconds else ""
