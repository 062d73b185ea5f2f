"""One start of a job: its mpirun as a child, its ranks on their lines, signals to all of them.

Whatever happens, nothing is left running: mpirun is killed with this process (where the system can,
as Linux does), and what it leaves behind on this host is killed after it.
"""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType

from psdp.errors import CheckpointError, ConfigError, PeerLost
from psdp.launch.child import remove_session, start
from psdp.launch.ranks import Rank, Ranks
from psdp.processes import kill_all
from psdp.signals import heeded, is_for_good, status_after

FOR_GOOD_S, FOR_A_WHILE_S = 10.0, 70.0
"""How long a run that was asked to end may take to save itself: twice as long as rank 0 takes at
most, where somebody waits for it, and where a batch system has given notice."""
TERM_S = 3.0
"""How long an mpirun may take to end its ranks before it is killed with them."""
BROKEN_S = 5.0
"""How long the others may take to end, or to be saved, when a rank is gone that they need."""
LEAVING_S = 2.0
"""How long an mpirun may outlive all ranks of a job that has survived failures."""
LAST_WORDS_S = 1.0
"""How long ranks may outlive their mpirun, or it a signal when nothing is left to be done."""

_KILLED = {base + number for base in (0, 128) for number in (signal.SIGKILL, signal.SIGSEGV)}
"""Exit statuses of an mpirun one of whose ranks was killed, or crashed: Hydra's is the signal's
number itself."""


@dataclass(frozen=True)
class Outcome:
    """How a start ended.

    Attributes:
        status: the exit status that says so.
        told: that of rank 0, or of a rank that failed; None: none of them has said why.
        ranks: who has called, by rank.
        first: the rank that went first, or cannot be reached.
        folder: of the run, if it had begun.
        asked: the signal that asked for the end.
    """

    status: int
    told: int | None
    ranks: Mapping[int, Rank]
    first: Rank | None
    folder: str | None
    asked: int | None = None

    @property
    def lost_at_start(self) -> bool:
        """Whether a rank went, without a word, before the run had begun. Others may have seen it,
        and end for that reason; where none has called yet, only mpirun's status tells."""
        if self.folder is not None:
            return False
        if self.first is None:
            return not self.ranks and self.status in _KILLED
        silent = self.told is None and self.first.status is None
        return silent or self.told == PeerLost.exit_code

    @cached_property
    def kept(self) -> Path | None:
        """The newest whole checkpoint of the run, None if there is none; all of it is read."""
        if self.folder is None:
            return None
        from psdp.checkpoint import find_checkpoint  # and NumPy with it, after a failure only

        with suppress(CheckpointError):
            return find_checkpoint(Path(self.folder))
        return None


class Signals:
    """The signals that this process takes from now on; each wakes the loop of a selector.

    Attributes:
        first: the first of them, None before it came.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.selector = selectors.DefaultSelector()
        self._taken: deque[int] = deque()
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        self._sockets = read, write
        self.selector.register(read, selectors.EVENT_READ, self._wake)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in heeded():
            signal.signal(number, self._take)

    def taken(self) -> int | None:
        """Return the next one that has come since."""
        return self._taken.popleft() if self._taken else None

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or number
        self._taken.append(number)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._sockets[0].recv(4096)


class Supervisor:
    """Runs one mpirun to its end.

    Args:
        signals, ranks: to heed, and to hear.
        size: of the job, in ranks.
        survives: it goes on when a rank that works is gone.
    """

    def __init__(
        self, signals: Signals, ranks: Ranks, size: int, *, survives: bool = False
    ) -> None:
        self._signals = signals
        self._ranks = ranks
        self._size = size
        self._survives = survives
        self._told_of = 0
        """How many of the ranks that have left rank 0 was told of."""
        self._asked: int | None = None
        self._broken: Rank | None = None
        self._deadline_s: float | None = None
        self._terminated = False
        self._over_s: float | None = None
        """Since when a job that survives failures is seen to be over."""

    def run(self, command: Sequence[str]) -> Outcome:
        """Start a command and see it to its end.

        Raises:
            ConfigError: it cannot be started.
        """
        try:
            child = start(command, self._ranks.environment)
        except (OSError, ValueError) as error:  # too long, or with a NUL in it
            raise ConfigError(f"{command[0]} cannot be started: {error}") from error
        with child:
            while child.poll() is None:
                self._turn(0.2)
                self._heed(child)
                if self._ranks.folder is None and len(self._ranks.known) < self._size:
                    self._ranks.seek(child.pid, self._size)
                self._watch(child)
        self._hear_out()
        remove_session(child.pid)
        return self._outcome(child.returncode)

    def _turn(self, timeout_s: float) -> None:
        for key, _ in self._signals.selector.select(timeout_s):
            key.data()

    def _heed(self, child: subprocess.Popen[bytes]) -> None:
        """Pass on what a signal asks for, in a way that leaves time for a checkpoint."""
        while (number := self._signals.taken()) is not None:
            if self._asked is not None:
                self._terminate(child)  # whoever asks twice wants it now
                continue
            self._asked = number
            if self._ranks.ask_to_end(number):
                grace_s = FOR_GOOD_S if is_for_good(number) else FOR_A_WHILE_S
                self._deadline_s = time.monotonic() + grace_s
            elif 0 in self._ranks.known or number == signal.SIGHUP:
                self._terminate(child)  # there is nothing to save yet
            else:  # a program that has no line: it may have uses of its own for a signal
                child.send_signal(number)
                if is_for_good(number):
                    self._deadline_s = time.monotonic() + FOR_GOOD_S

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """End a start that cannot come to anything, and what does not end when it should."""
        self._ranks.judge()
        while self._survives and self._told_of < len(self._ranks.left):
            rank = self._ranks.left[self._told_of]
            if self._ranks.tell_of(rank):
                if rank.silent_s is not None:
                    self._ranks.fence(rank)
            elif self._ranks.folder is None or self._ranks.finished:
                break
            else:  # nobody is left who could lead the run: all are to see why it is over
                self._ranks.fence(rank)
            self._told_of += 1
        if self._deadline_s is None:
            self._broken = self._cause()
            if self._broken is not None:
                if self._broken.silent_s is not None:
                    self._ranks.ask_to_end(signal.SIGTERM)
                self._deadline_s = time.monotonic() + BROKEN_S
                if self._ranks.folder is None and self._broken.status is None:
                    self._ranks.kill()  # there is nothing to save, nor to be said
                    self._terminate(child)  # it removes the files by which they were to meet
            elif self._survives and self._is_over():
                self._see_off(child)
            else:
                self._over_s = None
        elif time.monotonic() >= self._deadline_s:
            self._terminate(child)

    def _is_over(self) -> bool:
        """Say whether nothing can come of the job any more. Where nobody is left who could lead the
        run, ranks may yet wait for one another, to hear of one who can."""
        left = self._ranks.folder is not None and not self._ranks.led
        return left or self._ranks.finished or self._all_gone()

    def _see_off(self, child: subprocess.Popen[bytes]) -> None:
        """The job is over: end an mpirun that does not. A rank that is stopped would keep it for
        ever, and so would a host that is lost."""
        now_s = time.monotonic()
        self._over_s = self._over_s or now_s
        lost = any(rank.status != 0 for rank in self._ranks.left) and not self._waiting()
        if now_s >= self._over_s + (LEAVING_S if lost else BROKEN_S):
            self._terminate(child)

    def _cause(self) -> Rank | None:
        """Return a rank that the others wait for in vain, where an MPI does not see it: it has
        ended within MPI's start, or is silent."""
        if self._survives:
            return None if self._ranks.folder else next(iter(self._ranks.left), None)
        silent = next((rank for rank in self._ranks.left if rank.silent_s is not None), None)
        if silent is not None:
            return silent
        if sum(rank.started for rank in self._ranks.known.values()) == self._size:
            return None
        return next((rank for rank in self._ranks.left if not rank.started), None)

    def _terminate(self, child: subprocess.Popen[bytes]) -> None:
        if not self._terminated:
            child.send_signal(signal.SIGTERM)
        else:
            kill_all(child.pid)
        self._terminated = True
        self._deadline_s = time.monotonic() + (TERM_S if self._over_s is None else LAST_WORDS_S)

    def _hear_out(self) -> None:
        """Hear the last words of ranks, and leave none of them on this host."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while self._waiting() and time.monotonic() < deadline_s:
            self._turn(0.05)
        self._ranks.kill()

    def _waiting(self) -> bool:
        return any(not rank.gone for rank in self._ranks.known.values())

    def _all_gone(self) -> bool:
        return len(self._ranks.known) == self._size and not self._waiting()

    def _leaderless(self) -> bool:
        """Say whether a run that survives failures was left without who led it, and a last word."""
        leader = self._ranks.known.get(self._ranks.leader)
        if leader is None or not self._survives or self._ranks.folder is None:
            return False
        return leader.gone and not self._ranks.finished and self._broken in (None, leader)

    def _beyond_reach(self) -> Rank | None:
        """Return a rank of which the launcher cannot tell that it has ended: its host may be lost,
        unless it is this one, where a rank that is not gone yet is but slow to go."""
        here = socket.gethostname()
        for rank in self._ranks.known.values():
            if rank.silent_s is not None or (rank.host != here and not rank.gone):
                return rank
        return None

    def _outcome(self, code: int) -> Outcome:
        told, known = self._ranks.status, self._ranks.known
        first = next(iter(self._ranks.left), None)
        cause = self._broken
        broken = cause is not None and (self._terminated or cause.silent_s is not None)
        died = broken or (first is not None and first.status is None)
        if died and self._asked is None and told == status_after(signal.SIGTERM):
            told = None  # which the others got since a rank had died
        if self._leaderless():
            first, told, broken = known[self._ranks.leader], None, True
        elif told is None:
            first = self._broken or self._beyond_reach() or first
        without = self._terminated or any(rank.status != 0 for rank in self._ranks.left)
        status = exit_status(
            128 - code if code < 0 else code,
            told,
            asked=self._asked,
            broken=broken,
            spoke=0 in known and known[0].started,
            survived=self._survives and without,
        )
        return Outcome(status, told, known, first, self._ranks.folder, self._asked)


def exit_status(
    mpirun: int,
    told: int | None,
    *,
    asked: int | None,
    broken: bool,
    spoke: bool,
    survived: bool = False,
) -> int:
    """Return the exit status of a job: 0 if it has finished, and in no other case.

    Args:
        mpirun: the exit status of its mpirun, whose own word is worth least.
        told: what rank 0 says, or a rank that failed.
        asked: the signal that asked for an end.
        broken: a rank had ended before MPI's start, or was silent.
        spoke: rank 0 would say it if it had finished; not all programs do.
        survived: it went on when ranks of it had failed, which mpirun's status may tell of, or
            mpirun was ended because of one.
    """
    if told is not None:
        return told if survived else told or mpirun
    if asked is not None:
        return status_after(asked)
    if broken:
        return PeerLost.exit_code
    return mpirun or (PeerLost.exit_code if spoke else 0)
