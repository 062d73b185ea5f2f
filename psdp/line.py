"""The line between a rank and the psdp.launch that started it, on whatever host.

A rank opens it before it does anything that can fail, so that the launcher sees which one ended,
where, and whether MPI had it yet. It tells how far it has come, and rank 0 is told by it to end:
an MPI's own launcher either passes a signal on or leaves time for a checkpoint, seldom both. Rank 0
is told, too, of ranks that are gone, of which an MPI does not see all, and all others of its end.
Each word is a line of JSON. Without a launcher, or where it cannot be reached, all of this does
nothing: a rank runs as well without.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

VARIABLE = "PSDP_LAUNCHER"
"""Of the environment: ``TOKEN PORT ADDRESS...``, where the launcher listens."""

LONGEST_BYTES = 1 << 16
"""Of a word; who sends more is none of ours."""

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
"""Of the environment: where launchers tell a process its rank."""
_CONNECT_S = 2.0


class Line:
    """This rank's end of the line.

    Attributes:
        began_s: when the job began, by this host's monotonic clock.
    """

    def __init__(self, connection: socket.socket | None = None, age_s: float = 0.0) -> None:
        self.began_s = time.monotonic() - age_s
        self._connection = connection
        self._rest = b""
        self._end: int | None = None
        self._over: int | None = None
        self._gone: list[int] = []

    def started(self) -> None:
        """Tell that MPI has this rank."""
        self._tell(started=True)

    def training(self, folder: str) -> None:
        """Tell that the run has begun, and where its folder is."""
        self._tell(folder=os.path.abspath(folder))

    def ended(self, status: int) -> None:
        """Tell the exit status with which this rank ends."""
        self._tell(ended=status)

    def asked(self) -> int | None:
        """Return the number of a signal by which the launcher asks this rank to end, None if it
        does not."""
        self._listen()
        return self._end

    def over(self) -> int | None:
        """Return the exit status with which rank 0 has ended, None if it has not said any."""
        self._listen()
        return self._over

    def gone(self) -> list[int]:
        """Return the ranks of which the launcher tells that their processes are no more; each
        once."""
        self._listen()
        told, self._gone = self._gone, []
        return told

    def _listen(self) -> None:
        """Take what the launcher has said since."""
        if self._connection is None:
            return
        try:
            self._rest += self._connection.recv(LONGEST_BYTES)
        except OSError:  # nothing there, or nobody
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"end": int(number)}:
                    self._end = self._end or number
                case {"over": int(status)}:
                    self._over = status
                case {"gone": int(rank)}:
                    self._gone.append(rank)

    def _tell(self, **word: Any) -> None:
        if self._connection is not None:
            with suppress(OSError):
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
                connection.sendall(hello)
                with connection.makefile("rb", buffering=0) as words:
                    age_s = json.loads(words.readline(LONGEST_BYTES))["age_s"]
            except BaseException:
                connection.close()
                raise
            connection.setblocking(False)  # the loops look in passing
            return Line(connection, age_s)
    return Line()
