"""The ranks of one start of a job, as the launcher hears of them; the other end of psdp/line.py."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from psdp.launch.hosts import addresses
from psdp.launch.leases import Leases
from psdp.line import LONGEST_BYTES, VARIABLE, encoded, rank_of
from psdp.processes import descendants, environment_of

FORKED_S = 5.0
"""How long after the newest rank on its host an mpirun has started the next one, by far."""


@dataclass
class Rank:
    """What one rank has told.

    Attributes:
        started: MPI has it.
        folder: of the run, once it has begun (from who leads it).
        stands_by: it may come to lead the run.
        status: it has ended, or is about to, with this exit status.
        error: why it has, in words, if it has said so.
        gone: its process is no more, as far as can be told.
        silent_s: for so long nothing was heard of it, and it is taken for dead.
    """

    rank: int
    host: str
    pid: int
    started: bool = False
    folder: str | None = None
    stands_by: bool = False
    status: int | None = None
    error: str | None = None
    gone: bool = False
    silent_s: float | None = None
    connection: socket.socket | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    @property
    def alive(self) -> bool:
        """Whether it can be spoken to."""
        return self.connection is not None and self.silent_s is None

    @property
    def may_lead(self) -> bool:
        """Whether it leads the run, or may come to."""
        return self.folder is not None or self.stands_by

    @property
    def why(self) -> str:
        """Why it is taken for dead."""
        if self.error is not None:
            return f"it failed: {self.error}"
        if self.silent_s is None:
            return "its process has ended"
        return (
            f"nothing was heard of it for {self.silent_s:g} s: it hangs or is stopped, or its host "
            "or network is down"
        )


class Ranks:
    """Listens for ranks; what they told is there by their number.

    Args:
        selector: of the launcher's loop, which calls what is registered there.
        began_s: when the job began, by the clock ``now``.
        everywhere: ranks may be on other hosts.
        lease_s: for which a rank may be silent; 0: for ever.

    Attributes:
        known: all who have called, by rank.
        left: of these, whose process is no more, in the order in which they went.
        leader: who leads the run: rank 0, or who has taken over from it.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        began_s: float,
        *,
        everywhere: bool,
        lease_s: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known: dict[int, Rank] = {}
        self.left: list[Rank] = []
        self.leader = 0
        self._everywhere = everywhere
        self._newest_s: float | None = None
        """When a rank was there, or called, that had not before."""
        self._next_look_s = 0.0
        self._seen: set[int] = set()
        """Ranks of which processes have been on this host."""
        self._selector = selector
        self._began_s = began_s
        self._now = now
        self._leases = Leases(lease_s, now)
        self._token = secrets.token_hex(16)
        self._rests: dict[socket.socket, bytes] = {}
        self._addresses = addresses() if everywhere else ["127.0.0.1"]
        self._listener = socket.create_server(("" if everywhere else "127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def environment(self) -> dict[str, str]:
        """What ranks need to call."""
        port = self._listener.getsockname()[1]
        return {VARIABLE: f"{self._token} {port} {' '.join(self._addresses)}"}

    @property
    def folder(self) -> str | None:
        """The run folder, once there is one."""
        return next((rank.folder for rank in self.known.values() if rank.folder), None)

    @property
    def status(self) -> int | None:
        """The exit status with which the leader ended, else that of the first that told of a
        failure; None if there is no such word."""
        failed = (rank for rank in self.left if rank.status)
        return next((rank.status for rank in (self._ended, *failed) if rank is not None), None)

    @property
    def finished(self) -> bool:
        """Whether the leader has said that it ends."""
        return self._ended is not None

    @property
    def led(self) -> bool:
        """Whether a rank lives that leads the run, or may come to."""
        return any(rank.alive and rank.may_lead for rank in self.known.values())

    @property
    def _ended(self) -> Rank | None:
        """The leader, if it has said that it ends; or who could have led the run in its place, and
        ends since it has heard from it that all is done."""
        leader = self.known.get(self.leader)
        if leader is not None and leader.status is not None:
            return leader
        ends = (rank for rank in self.known.values() if rank.stands_by and rank.status == 0)
        return next(ends, None)

    def ask_to_end(self, number: int) -> bool:
        """Have the leader end the run as after a signal; say whether it can, and has one to end."""
        return self._tell_leader(end=number)

    def tell_of(self, rank: Rank) -> bool:
        """Tell the leader that a rank is gone; say whether it can be told, and leads a run."""
        return self._tell_leader(gone=rank.rank, why=rank.why)

    def judge(self) -> None:
        """Take the ranks for dead of which nothing has been heard for too long."""
        for number, silent_s in self._leases.expired().items():
            self.known[number].silent_s = silent_s
            self.left.append(self.known[number])

    def fence(self, rank: Rank) -> None:
        """See that a rank that is taken for dead is dead, for the MPI too: whoever can reach its
        host kills it there, and should it wake before, or be reached again, it ends itself."""
        if (one := self._some(lambda other: True)) is not None:
            _tell(one, dead=rank.rank)
        if rank.host == socket.gethostname():
            self._kill(rank)
        elif (neighbour := self._some(lambda other: other.host == rank.host)) is not None:
            _tell(neighbour, kill=rank.pid)
        _tell(rank, fenced=f"psdp.launch has taken it for dead ({rank.why})")

    def _some(self, fits: Callable[[Rank], bool]) -> Rank | None:
        """Return the first rank that lives and fits."""
        ranks = (self.known[number] for number in sorted(self.known))
        return next((rank for rank in ranks if rank.alive and fits(rank)), None)

    def _tell_leader(self, **word: Any) -> bool:
        """Tell the leader, and who may come to be it; say whether one of them can hear it."""
        hear = [rank for rank in self.known.values() if rank.may_lead]
        return sum(_tell(rank, **word) for rank in hear) > 0

    def seek(self, parent: int, size: int) -> None:
        """Look below the mpirun of so many ranks for those on this host that have ended before they
        could call, while others wait for them."""
        began_s = self._now()
        if self._newest_s is None or began_s < self._next_look_s:  # nobody may call
            return
        alive = set()
        for environment in map(environment_of, descendants(parent)):
            number = rank_of(environment)
            if number is not None and self._is_ours(environment):
                alive.add(number)
        if not alive <= self._seen:
            self._newest_s = self._now()
        self._seen |= alive
        if not self._everywhere and self._now() - self._newest_s >= FORKED_S:
            self._seen.update(range(size))
        for number in self._seen - alive - self.known.keys() if alive else ():
            self.known[number] = rank = Rank(number, socket.gethostname(), 0, gone=True)
            self.left.append(rank)
        now_s = self._now()
        self._next_look_s = now_s + 4 * (now_s - began_s)  # ranks are to be heard meanwhile

    def kill(self) -> None:
        """Kill those on this host that are still there."""
        for rank in self.known.values():
            if rank.host == socket.gethostname() and not rank.gone:
                self._kill(rank)

    def _kill(self, rank: Rank) -> None:
        """Kill a rank on this host, if its process is what it was."""
        if self._is_ours(environment_of(rank.pid)):
            with suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL)

    def _is_ours(self, environment: Mapping[str, str]) -> bool:
        return environment.get(VARIABLE, "").startswith(self._token)

    def close(self) -> None:
        """Hear no more of any."""
        for connection in (self._listener, *self._rests):
            self._selector.unregister(connection)
            connection.close()
        self._rests.clear()

    def _accept(self) -> None:
        with suppress(OSError):  # to the end: ranks wait for an answer, and many call at once
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._rests[connection] = b""
                hear = partial(self._hear, connection)
                self._selector.register(connection, selectors.EVENT_READ, hear)

    def _hear(self, connection: socket.socket) -> None:
        ours = True
        while ours:  # to the end: ranks are heard in the order in which they spoke, and went
            try:
                data = connection.recv(LONGEST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                break
            ours = bool(data) and self._understands(connection, data)
        self._drop(connection)

    def _understands(self, connection: socket.socket, data: bytes) -> bool:
        """Take the words that have come on a connection; say whether they are a rank's."""
        *words, rest = (self._rests[connection] + data).split(b"\n")
        self._rests[connection] = rest
        try:
            for word in words:
                self._take(connection, json.loads(word))
        except (ValueError, TypeError, KeyError):
            return False
        return len(rest) <= LONGEST_BYTES

    def _take(self, connection: socket.socket, word: Mapping[str, Any]) -> None:
        rank = self._at(connection)
        if rank is None:
            if not secrets.compare_digest(str(word["token"]), self._token):
                raise ValueError("a stranger")
            who = int(word["rank"]), str(word["host"]), int(word["pid"])
            rank = Rank(*who, connection=connection)
            self.known[rank.rank] = rank
            self._newest_s = self._now()
            age_s = self._now() - self._began_s
            _tell(rank, age_s=age_s, lease_s=self._leases.lease_s)
        rank.started = word.get("started", rank.started)
        rank.stands_by = word.get("stands_by", rank.stands_by)
        if "folder" in word:
            rank.folder, self.leader = word["folder"], rank.rank
        rank.status, rank.error = word.get("ended", rank.status), word.get("why", rank.error)
        if "beat" in word:
            _tell(rank, answer=True)
        if rank.status is not None:
            self._leases.forget(rank.rank)
        elif rank.silent_s is None:
            self._leases.heard(rank.rank, starting=not rank.started)
        if "ended" in word and rank.error is not None:
            self.tell_of(rank)  # before the MPI finds it dead, and nobody knows why
        if "ended" in word and rank is self._ended:
            for other in self.known.values():
                _tell(other, over=rank.status)

    def _drop(self, connection: socket.socket) -> None:
        rank = self._at(connection)
        if rank is not None:
            rank.gone, rank.connection = True, None
            self._leases.forget(rank.rank)
            if rank.silent_s is None:
                self.left.append(rank)
        del self._rests[connection]
        self._selector.unregister(connection)
        connection.close()

    def _at(self, connection: socket.socket) -> Rank | None:
        return next((rank for rank in self.known.values() if rank.connection is connection), None)


def _tell(rank: Rank, **word: Any) -> bool:
    """Say a word to a rank; say whether it can hear it."""
    if rank.connection is None:
        return False
    try:
        rank.connection.sendall(encoded(word))
    except OSError:
        return False
    return True
