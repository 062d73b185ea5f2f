"""What every transport offers, and how a rank waits without burning its core."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from psdp.errors import ProtocolError
from psdp.transport.messages import Message

Array = npt.NDArray[Any]

Landing = Callable[[int, Message], Array]
"""Names the vector into which the payload of a peer's message is received."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of a peer; its payload, if any, has wholly landed."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer is gone; nothing more will come from it or reach it."""

    peer: int
    why: str


class Sending:
    """A message on its way. Its payload must not be written before ``done``."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


class Endpoint(ABC):
    """One rank's side of the network. Messages of a peer arrive in the order it sent them.

    Attributes:
        rank: of this endpoint.
        landing: set by the owner before the first payload can come.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.landing: Landing = _no_landing

    @abstractmethod
    def send(self, peer: int, message: Message, payload: Array | None = None) -> Sending:
        """Start sending a header and the raw memory of a contiguous vector; never wait."""

    @abstractmethod
    def poll(self) -> Arrival | Lost | None:
        """Move transfers on; return the next thing that happened, or None.

        Raises:
            ProtocolError: a header that is none, or whose payload does not fit its landing.
        """

    @abstractmethod
    def transferring(self) -> bool:
        """Say whether a payload is on its way in or out."""

    def receive(self, timeout_s: float) -> Arrival | Lost | None:
        """Return the next thing that happens within ``timeout_s``, or None; sleep meanwhile."""
        backoff = Backoff()
        deadline = time.monotonic() + timeout_s
        while (event := self.poll()) is None:
            if time.monotonic() >= deadline:
                return None
            backoff.pause(self.transferring())
        return event

    def flush(self, sendings: list[Sending]) -> list[Arrival | Lost]:
        """Wait until these are done; return what happened meanwhile, in order."""
        events: list[Arrival | Lost] = []
        backoff = Backoff()
        while not all(sending.done for sending in sendings):
            event = self.poll()
            if event is not None:
                events.append(event)
            else:
                backoff.pause(self.transferring())
        return events


class Backoff:
    """Sleeps that grow from 30 microseconds to a millisecond.

    While a payload is under way most MPIs copy it inside our calls, so then we only yield the
    core; a transfer that stands still for a quarter of a second is no reason to burn one.
    """

    _SHORTEST_S, _LONGEST_S, _PATIENCE_S = 30e-6, 1e-3, 0.25

    def __init__(self) -> None:
        self._sleep_s = self._SHORTEST_S
        self._yielding_since: float | None = None

    def pause(self, transferring: bool) -> None:
        if transferring:
            now = time.monotonic()
            if self._yielding_since is None:
                self._yielding_since = now
            if now - self._yielding_since < self._PATIENCE_S:
                os.sched_yield()
                return
        else:
            self._yielding_since = None
        time.sleep(self._sleep_s)
        self._sleep_s = min(self._sleep_s * 1.5, self._LONGEST_S)


def landing_bytes(landing: Landing, peer: int, message: Message, payload_bytes: int) -> Array:
    """Return the bytes (payload_bytes,) of the vector into which a payload may land.

    Raises:
        ProtocolError: the payload is not of the size that is expected there.
    """
    target = landing(peer, message)
    if target.nbytes != payload_bytes:
        raise ProtocolError(
            f"rank {peer} announced {payload_bytes} bytes with {type(message).__name__}, "
            f"expected {target.nbytes}: do all ranks run the same settings?"
        )
    return as_bytes(target)


def as_bytes(vector: Array) -> Array:
    """Return a contiguous vector's memory as uint8, without a copy."""
    assert vector.flags.c_contiguous
    assert vector.ndim == 1
    return vector.view("uint8")


def _no_landing(peer: int, message: Message) -> Array:
    raise ProtocolError(f"rank {peer} sent a payload with {type(message).__name__}; none expected")
