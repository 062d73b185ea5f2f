"""What the values of messages stand for: a rank, a worker, a slot, a count of steps. A well-formed
message may still name one that the job does not have."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, NamedTuple

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.transport.messages import (
    Begin,
    Evaluate,
    Halt,
    Include,
    Left,
    Message,
    PartialNorm,
    Rehost,
    Spent,
)


class _Known(NamedTuple):
    """What a field may be, and so in words."""

    holds: Callable[[Any], bool]
    words: str


class Sense:
    """Finds what makes no sense in a job.

    Args:
        ranks, shards: how many it has.
        computing: those of them that may compute for workers.
        workers: their numbers; each has a slot.
        steps: the most that can be ordered at once.
        pushes: what workers may be told to push.
    """

    def __init__(
        self,
        ranks: int,
        shards: int,
        computing: Collection[int],
        workers: Collection[int],
        steps: int,
        pushes: Collection[Pushed],
    ) -> None:
        self._rank = _one_of(range(ranks))
        host, worker = _one_of(computing), _one_of(workers)
        slot, shard = _one_of(range(len(workers))), _one_of(range(shards))
        self._known = {
            "joined": self._rank,
            "lacking": self._rank,
            "lost": self._rank,
            "number": _one_of(list(signal.Signals)),
            "push": _one_of(pushes),
            "rank": host,
            "ranks": host,
            "shard": shard,
            "shards": shard,
            "slot": slot,
            "slots": slot,
            "steps": _one_of(range(1, max(steps, 1) + 1)),
            # NaN and Inf have an error of their own.
            "sum_of_squares": _Known(lambda value: not value < 0, "0 or more"),
            "worker": worker,
            "workers": worker,
        }
        self._plans: dict[type[Any], list[tuple[str, _Known | None]]] = {}

    def check(self, peer: int, message: Message) -> None:
        """
        Raises:
            ProtocolError: a value in a message of this peer stands for nothing.
        """
        self._check(peer, message)

    def _check(self, peer: int, part: Any) -> None:
        for name, known in self._plan(type(part)):
            value = getattr(part, name)
            for each in value if isinstance(value, tuple) else (value,):
                if known is None:
                    self._check(peer, each)
                elif not known.holds(each):
                    raise _wrong(peer, part, name, each, known.words)
        match part:
            case Evaluate(part=number, parts=parts) if number >= parts:
                raise _wrong(peer, part, "part", number, f"less than {parts}")
            case Include(slots, weights) if len(weights) != len(slots):
                raise _wrong(peer, part, "weights", weights, f"{len(slots)} of them")
            case PartialNorm(squares=few) if sum(few) < 0 or -math.inf in few:
                raise _wrong(peer, part, "squares", few, "a sum of 0 or more")
            case Halt(shards=shards, joined=joined) | Begin(shards=shards, joined=joined) if len(
                joined
            ) != len(shards):
                raise _wrong(peer, part, "joined", joined, f"{len(shards)} of them")
            case Rehost(workers, ranks) if len(ranks) != len(workers):
                raise _wrong(peer, part, "ranks", ranks, f"{len(workers)} of them")

    def _plan(self, kind: type[Any]) -> list[tuple[str, _Known | None]]:
        """Return the fields of a type to look at: with what they may be, or None to look into."""
        plan = self._plans.get(kind)
        if plan is None:
            plan = []
            for field in fields(kind) if kind is not Spent else ():  # which may be of no steps
                known = self._rank if kind is Left else self._known.get(field.name)
                if known is not None or field.name in ("work", "orders"):
                    plan.append((field.name, known))
            self._plans[kind] = plan
        return plan


def _wrong(peer: int, part: Any, name: str, value: Any, expected: str) -> ProtocolError:
    field = f"{type(part).__name__}.{name}"
    return ProtocolError(f"rank {peer} sent {field} {value}, expected {expected} in this job")


def _one_of(values: Collection[Any]) -> _Known:
    some = sorted(values)
    words = ", ".join(map(str, some)) if len(some) < 9 else f"{some[0]} to {some[-1]}"
    return _Known((values if isinstance(values, range) else frozenset(values)).__contains__, words)
