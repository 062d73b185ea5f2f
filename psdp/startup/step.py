"""A step of the start: what all ranks do at the same time, tell one another, and make of it.

Whatever goes wrong on some rank ends all of them, told once.
"""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, NoReturn, TypeVar

from psdp.errors import ConfigError, PeerLost, PsdpError, StartRefused
from psdp.startup.facts import from_bytes, read, to_bytes
from psdp.transport.world import World

Own = TypeVar("Own")
Facts = TypeVar("Facts")
Agreed = TypeVar("Agreed")

PATIENCE_S = 3.0
"""How long a rank with a mistake of ours waits for the others, which may be busy, to hear of it."""

# NumPy raises these as ValueError where a size is beyond any memory.
_TOO_BIG = ("array is too big", "Maximum allowed dimension")
_LOWER = "lower --n-layer, --n-embd, --block-size, --batch-size or --vocab-size"


class Step(ABC, Generic[Own, Facts, Agreed]):
    """One step of the start.

    Attributes:
        facts: the dataclass that ranks tell one another; see :mod:`psdp.startup.facts`.
    """

    facts: type[Facts]

    @abstractmethod
    def act(self) -> tuple[Own, Facts]:
        """Do it on this rank; return what is this rank's alone, and what all others are told.

        Raises:
            PsdpError: this rank cannot, and so all end.
        """

    def concerns(self, rank: int) -> bool:
        """Say whether a rank has anything to do in it that can go wrong."""
        return True

    @abstractmethod
    def agree(self, facts: Mapping[int, Facts]) -> Agreed:
        """Return what follows from the facts of all ranks that take the step, by rank and in that
        order: the same on all of them.

        Raises:
            PsdpError: they do not fit, and so all end.
        """


@dataclass(frozen=True)
class Nothing:
    """No facts: what counts is that all ranks have come so far."""


@dataclass(frozen=True)
class _Failure:
    """Why a rank cannot go on, and the exit status that says so.

    Attributes:
        text: empty if rank 0 has said it already.
        mistake: whether it is ours, and not the user's.
    """

    text: str
    status: int
    mistake: bool = False


@dataclass(frozen=True)
class _Report:
    """What a rank tells at the end of a step: a failure, or facts."""

    failure: _Failure | None
    facts: Any


def take(world: World, step: Step[Own, Facts, Agreed]) -> tuple[Own, Agreed]:
    """Take a step together with all other ranks; return what is this rank's, and what all made of
    the facts.

    Raises:
        StartRefused: it failed on some rank; rank 0 has said why.
        PeerLost: some rank is gone.
        BaseException: why this rank cannot go on, of which not all others could be told.
    """
    concerned = frozenset(filter(step.concerns, world.ranks))
    try:
        own, facts = step.act()
    except BaseException as error:
        _fail(world, error, concerned)
    reports = _exchange(world, _Report(None, facts))
    _check(world, reports, concerned)
    told = {rank: read(step.facts, report.facts) for rank, report in reports.items()}
    try:
        return own, step.agree(told)
    except PsdpError as error:
        # All ranks find the same.
        raise _refusal(world, dict.fromkeys(reports, _failure_of(error)), concerned) from error


def _fail(world: World, error: BaseException, concerned: frozenset[int]) -> NoReturn:
    """Tell all ranks why this one cannot go on."""
    failure = _failure_of(error)
    try:
        reports = _exchange(world, _Report(failure, None), PATIENCE_S if failure.mistake else inf)
    except (TimeoutError, PeerLost):
        raise error from None
    _check(world, reports, concerned)
    raise AssertionError("this rank's failure is among the reports")


def _exchange(world: World, report: _Report, timeout_s: float = inf) -> dict[int, _Report]:
    told = zip(world.ranks, world.exchange(to_bytes(report), timeout_s), strict=True)
    return {rank: from_bytes(_Report, raw) for rank, raw in told}


def _check(world: World, reports: Mapping[int, _Report], concerned: frozenset[int]) -> None:
    """
    Raises:
        StartRefused: some rank failed; rank 0 has said why.
    """
    failed = {rank: r.failure for rank, r in reports.items() if r.failure is not None}
    if failed:
        raise _refusal(world, failed, concerned)


def _refusal(
    world: World, failed: Mapping[int, _Failure], concerned: frozenset[int]
) -> StartRefused:
    """Have rank 0 say what went wrong, each thing once, and on which ranks if not on all that are
    concerned; return the error that ends every rank."""
    if world.rank == 0:
        for text in dict.fromkeys(failure.text for failure in failed.values() if failure.text):
            ranks = [rank for rank, failure in failed.items() if failure.text == text]
            where = "" if concerned <= {*ranks} else f"rank {', '.join(map(str, ranks))}: "
            print(f"psdp: {where}{text}", file=sys.stderr, flush=True)
    return StartRefused(next(iter(failed.values())).status)


def _failure_of(error: BaseException) -> _Failure:
    if isinstance(error, StartRefused):
        return _Failure("", error.exit_code)
    if isinstance(error, PsdpError):
        return _Failure(str(error), error.exit_code)
    if isinstance(error, MemoryError | OverflowError) or (
        isinstance(error, ValueError) and str(error).startswith(_TOO_BIG)
    ):
        text = f"the settings ask for more memory than there is ({error}); {_LOWER}"
        return _Failure(text, ConfigError.exit_code)
    text = "".join(traceback.format_exception(error))
    return _Failure(f"failed:\n{text}", PsdpError.exit_code, mistake=True)
