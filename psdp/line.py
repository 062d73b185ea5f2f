"""The line between a rank and the psdp.launch that started it, on whatever host.

A rank opens it before it does anything that can fail, so that the launcher sees which one ended,
where, and whether MPI had it yet. It tells how far it has come, and rank 0 is told by it to end:
an MPI's own launcher either passes a signal on or leaves time for a checkpoint, seldom both. Rank 0
is told, too, of ranks that are gone, of which an MPI does not see all, and all others of its end.

A rank gives signs of life (beats), whatever it computes: a thread of its own sends them, as long as
the main thread does anything. The launcher answers; it takes a rank for dead that is silent for a
lease, and a rank that is cut off from it for as long ends itself, since others go on without it.

Each word is a line of JSON. Without a launcher, or where it cannot be reached, all of this does
nothing: a rank runs as well without.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from psdp.processes import MainThread, environment_of

VARIABLE = "PSDP_LAUNCHER"
"""Of the environment: ``TOKEN PORT ADDRESS...``, where the launcher listens."""

LONGEST_BYTES = 1 << 16
"""Of a word; who sends more is none of ours."""
LONGEST_WHY = 500
"""Characters of why a rank has ended."""

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
"""Of the environment: where launchers tell a process its rank."""

BEATS = 10
"""How often a rank gives a sign of life within a lease."""

_CONNECT_S, _WELCOME_S = 2.0, 20.0


def _fence() -> None:
    """End this process at once: others go on without it, and must not hear of it any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Line:
    """This rank's end of the line.

    Args:
        connection: to the launcher.
        age_s: of the job.
        lease_s: for which this rank may be silent, and cut off; 0: for ever.
        fence: ends this process.
        lives: returns whether the main thread has done anything since the last call.

    Attributes:
        began_s: when the job began, by this host's monotonic clock.
        lease_s: None where there is no launcher.
        declare: tells the MPI that a rank is dead; called from a thread of this line.
    """

    def __init__(
        self,
        connection: socket.socket | None = None,
        age_s: float = 0.0,
        lease_s: float = 0.0,
        fence: Callable[[], None] = _fence,
        lives: Callable[[], bool] = lambda: True,
    ) -> None:
        self.began_s = time.monotonic() - age_s
        self.lease_s = None if connection is None else lease_s
        self.declare: Callable[[int], object] = lambda rank: None
        self._connection = connection
        self._fence = fence
        self._lives = lives
        self._sending = threading.Lock()
        self._answered = True
        self._end: int | None = None
        self._over: int | None = None
        self._gone: deque[tuple[int, str]] = deque()
        if connection is not None:
            threading.Thread(target=self._keep, args=(connection, lease_s), daemon=True).start()

    def started(self) -> None:
        """Tell that MPI has this rank."""
        self._tell(started=True)

    def training(self, folder: str) -> None:
        """Tell that the run has begun, and where its folder is."""
        self._tell(folder=os.path.abspath(folder))

    def stands_by(self) -> None:
        """Tell that this rank may come to lead the run: it is told what who leads is."""
        self._tell(stands_by=True)

    def ended(self, status: int, why: str | None = None) -> None:
        """Tell the exit status with which this rank ends; and why, if others are to go on without
        it."""
        self._tell(ended=status, why=why and why.partition("\n")[0][:LONGEST_WHY])

    def asked(self) -> int | None:
        """Return the number of a signal by which the launcher asks this rank to end, None if it
        does not."""
        return self._end

    def over(self) -> int | None:
        """Return the exit status with which rank 0 has ended, None if it has not said any."""
        return self._over

    def gone(self) -> list[tuple[int, str]]:
        """Return the ranks of which the launcher tells that they are no more, and why it does; each
        once."""
        return [self._gone.popleft() for _ in range(len(self._gone))]

    # The thread

    def _keep(self, connection: socket.socket, lease_s: float) -> None:
        """Hear the launcher, and give it signs of life, until one of both has ended."""
        beat_s = lease_s / BEATS
        connection.settimeout(beat_s or None)
        next_s, rest = time.monotonic(), b""
        with connection:
            while True:
                if beat_s and time.monotonic() >= next_s:
                    next_s = time.monotonic() + beat_s
                    # One at a time: a launcher that is stopped is not written full.
                    if self._lives() and self._answered:
                        self._answered = False
                        self._tell(beat=True)
                try:
                    data = connection.recv(LONGEST_BYTES)
                except OSError as error:
                    if isinstance(error, TimeoutError) and error.errno != errno.ETIMEDOUT:
                        continue
                    cut_off = not isinstance(error, ConnectionError)
                    break
                if not data:
                    cut_off = False
                    break
                *words, rest = (rest + data).split(b"\n")
                for word in words:
                    self._hear(json.loads(word))
            self._connection = None
        if lease_s:
            if not cut_off:  # the launcher has ended, and its mpirun may have this end in hand
                time.sleep(lease_s)
            self._leave(f"psdp.launch cannot be reached for {lease_s:g} s")

    def _hear(self, word: Any) -> None:
        match word:
            case {"answer": _}:
                self._answered = True
            case {"end": int(number)}:
                self._end = self._end or number
            case {"over": int(status)}:
                self._over = status
            case {"gone": int(rank), "why": str(why)}:
                self._gone.append((rank, why))
            case {"dead": int(rank)}:
                self.declare(rank)
            case {"kill": int(pid)}:
                ours = os.environ.get(VARIABLE)
                if ours is not None and environment_of(pid).get(VARIABLE) == ours:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case {"fenced": str(why)}:
                self._leave(why)

    def _leave(self, why: str) -> None:
        with suppress(OSError):
            print(f"psdp: a rank on {socket.gethostname()} ends itself: {why}", file=sys.stderr)
        self._fence()

    def _tell(self, **word: Any) -> None:
        with self._sending, suppress(OSError):
            if self._connection is not None:
                self._connection.sendall(encoded(word))


def encoded(word: Mapping[str, Any]) -> bytes:
    """Return a word as it goes over the line."""
    return json.dumps(word).encode() + b"\n"


def rank_of(environment: Mapping[str, str]) -> int | None:
    """Return the rank that a launcher has given to a process, None if it has not."""
    told = (environment[name] for name in RANKS if name in environment)
    return next((int(text) for text in told if text.isdecimal()), None)


def open_line(environment: Mapping[str, str]) -> Line:
    """Return the line to the launcher that the environment names, or one without anybody."""
    rank = rank_of(environment)
    told = environment.get(VARIABLE, "").split()
    if rank is None or len(told) < 3:
        return Line()
    token, port, *addresses = told
    hello = encoded(
        {"token": token, "rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
    )
    for address in addresses:
        # Whoever else may listen there on this host does not welcome a rank.
        with suppress(OSError, ValueError, KeyError):
            connection = socket.create_connection((address, int(port)), _CONNECT_S)
            try:
                connection.settimeout(_WELCOME_S)  # all ranks of a large job may call at once
                connection.sendall(hello)
                with connection.makefile("rb", buffering=0) as words:
                    welcome = json.loads(words.readline(LONGEST_BYTES))
                age_s, lease_s = float(welcome["age_s"]), float(welcome["lease_s"])
                _notice_a_cut(connection, lease_s)
            except BaseException:
                connection.close()
                raise
            return Line(connection, age_s, lease_s, lives=MainThread().has_moved)
    return Line()


def _notice_a_cut(connection: socket.socket, lease_s: float) -> None:
    """Have a connection end when the launcher's host has confirmed nothing for a lease: which it
    does though the launcher is stopped."""
    if lease_s and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(lease_s * 1000))
