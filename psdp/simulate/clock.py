"""Virtual time, and the resources for which ranks queue: cores and network ports."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from psdp.transport.link import LinkSpeed

Action = Callable[[], None]


class Clock:
    """Calls actions in the order of their virtual times; those of the same time in the order in
    which they were asked for, so that a simulation repeats exactly.

    Attributes:
        now_s: virtual seconds since the start.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._stopped = False
        self._numbers = count()
        self._heap: list[tuple[float, int, Action]] = []

    def at(self, time_s: float, action: Action) -> None:
        """Call an action at a time that is not past."""
        assert time_s >= self.now_s
        heapq.heappush(self._heap, (time_s, next(self._numbers), action))

    def after(self, delay_s: float, action: Action) -> None:
        """Call an action in so many seconds."""
        self.at(self.now_s + delay_s, action)

    def run(self) -> None:
        """Go on until :meth:`stop` is called, or nothing is left to do."""
        while self._heap and not self._stopped:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()

    def stop(self) -> None:
        """Call nothing more."""
        self._stopped = True


class Process(Protocol):
    """One rank's work, done in order on one core at a time."""

    def run(self, busy_s: float, then: Action) -> None:
        """Use a core for so many seconds in all, after what is to be done before; then call
        ``then``."""


class Cores:
    """Cores that processes share. Who wakes queues for the core with the shortest queue and stays
    there until it sleeps again, as it mostly does on a system that seldom moves who waits; the
    processes of a core take turns.

    Args:
        number: of cores; None gives every process one of its own.
        slice_s: how long one runs while others wait.
    """

    def __init__(self, clock: Clock, number: int | None, slice_s: float) -> None:
        self._clock = clock
        self._slice_s = slice_s
        self._cores = [Core(clock, slice_s) for _ in range(number or 0)]

    def process(self) -> Process:
        """Return a new process, which has nothing to do yet."""
        return Sharing(self) if self._cores else Alone(self._clock)

    def wake(self, process: Sharing) -> None:
        """A process has something to do from now on."""
        shortest = min(self._cores, key=lambda core: core.load)
        own = process.core
        core = own if own is not None and own.load == shortest.load else shortest
        process.core = core
        core.queue(process)


class Core:
    """One core, and those that wait for it or run on it.

    Attributes:
        load: how many these are.
    """

    def __init__(self, clock: Clock, slice_s: float) -> None:
        self.load = 0
        self._clock = clock
        self._slice_s = slice_s
        self._waiting: deque[Sharing] = deque()

    def queue(self, process: Sharing) -> None:
        """Let a process run in its turn, until it has nothing more to do."""
        self.load += 1
        if self.load == 1:
            self._go_on(process, self._slice_s)
        else:
            self._waiting.append(process)

    def _go_on(self, process: Sharing, slice_s: float) -> None:
        busy_s = min(process.left_s, slice_s)
        self._clock.after(busy_s, lambda: self._ran(process, busy_s, slice_s - busy_s))

    def _ran(self, process: Sharing, busy_s: float, slice_s: float) -> None:
        process.advance(busy_s)
        if process.awake and slice_s > 0:
            self._go_on(process, slice_s)
            return
        if process.awake:
            self._waiting.append(process)
        else:
            self.load -= 1
        if self._waiting:
            self._go_on(self._waiting.popleft(), self._slice_s)


class Alone:
    """A process with a core of its own, which is free when all that was to be done is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_s = 0.0

    def run(self, busy_s: float, then: Action) -> None:
        self._free_s = max(self._clock.now_s, self._free_s) + busy_s
        self._clock.at(self._free_s, then)


class Sharing:
    """A process that waits for its turns.

    Attributes:
        awake: whether it has something to do.
        core: on which it was last.
    """

    def __init__(self, cores: Cores) -> None:
        self.awake = False
        self.core: Core | None = None
        self._cores = cores
        self._work: deque[tuple[float, Action]] = deque()

    @property
    def left_s(self) -> float:
        """What the first work still takes."""
        return self._work[0][0]

    def run(self, busy_s: float, then: Action) -> None:
        self._work.append((busy_s, then))
        if not self.awake:
            self.awake = True
            self._cores.wake(self)

    def advance(self, busy_s: float) -> None:
        """Note that the first work has been done for so long."""
        left_s, then = self._work[0]
        if busy_s < left_s:
            self._work[0] = left_s - busy_s, then
            return
        self._work.popleft()
        then()
        self.awake = bool(self._work)


class Ring:
    """Sums of a vector over all workers, by a ring: each passes on a W-th of it 2 (W - 1) times.

    Args:
        summed_s: when a sum is there that begins at a time.
        done: called after each.
    """

    def __init__(
        self, clock: Clock, workers: int, summed_s: Callable[[float], float], done: Action
    ) -> None:
        self._clock = clock
        self._workers = workers
        self._summed_s = summed_s
        self._done = done
        self._waiting: list[Action] = []

    def join(self, then: Action) -> None:
        """Take part in the next sum; call ``then`` when it is there."""
        self._waiting.append(then)
        if len(self._waiting) == self._workers:
            waiting, self._waiting = self._waiting, []
            self._clock.at(self._summed_s(self._clock.now_s), lambda: self._complete(waiting))

    def _complete(self, waiting: list[Action]) -> None:
        self._done()
        for then in waiting:
            then()


class Network:
    """What carries messages between ranks.

    Each rank has a port that sends, and receives, one message after the other. A message streams:
    its first byte can leave one port, and arrive ``latency_s`` later at another, before its last
    one has left. What carries no vector slips in between the packets of what does.

    Args:
        speed: of a port; infinite where ranks share a host.
    """

    def __init__(self, clock: Clock, ranks: int, latency_s: float, speed: LinkSpeed) -> None:
        self._clock = clock
        self._latency_s = latency_s
        self._speed = speed
        self._out_free_s = [0.0] * ranks
        self._in_free_s = [0.0] * ranks

    def send(self, source: int, target: int, size: int, then: Action) -> None:
        """Carry a message of ``size`` bytes; call ``then`` when all of it has arrived."""
        if not size:
            self._clock.after(self._latency_s, then)
            return
        begin_s = max(self._clock.now_s, self._out_free_s[source])
        self._out_free_s[source] = self._speed.through_s(begin_s, size)
        arrives_s = max(begin_s + self._latency_s, self._in_free_s[target])
        self._in_free_s[target] = end_s = self._speed.through_s(arrives_s, size)
        self._clock.at(end_s, then)
