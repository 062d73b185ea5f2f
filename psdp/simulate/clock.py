"""Virtual time, and the resources for which ranks queue: cores and network ports."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from psdp.transport.link import LinkSpeed

Action = Callable[..., None]
"""Called with the arguments that it was given along with."""


class Clock:
    """Calls actions in the order of their virtual times; those of the same time in the order in
    which they were asked for, so that a simulation repeats exactly.

    Attributes:
        now_s: virtual seconds since the start.
        asked: how many actions it was asked for.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked = 0
        self._end_s = math.inf
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []

    def at(self, time_s: float, action: Action, *args: Any) -> None:
        """Call an action at a time that is not past."""
        assert time_s >= self.now_s
        self.asked += 1
        heapq.heappush(self._heap, (time_s, self.asked, action, args))

    def after(self, delay_s: float, action: Action, *args: Any) -> None:
        """Call an action in so many seconds."""
        self.at(self.now_s + delay_s, action, *args)

    def run(self) -> None:
        """Go on until the time of :meth:`stop`, or until nothing is left to do."""
        heap, pop = self._heap, heapq.heappop
        while heap:
            time_s, _, action, args = pop(heap)
            if time_s >= self._end_s:
                break
            self.now_s = time_s
            action(*args)
        if self._end_s < math.inf:
            self.now_s = self._end_s

    def stop(self, time_s: float) -> None:
        """Call nothing more from then on."""
        self._end_s = time_s


class Process(Protocol):
    """One rank's work, done in order on one core at a time."""

    def run(self, busy_s: float, then: Action, *args: Any) -> None:
        """Use a core for so many seconds in all, after what is to be done before; then call
        ``then``."""


class Cores:
    """Cores that processes share. Who wakes queues for the core with the shortest queue and stays
    there until it sleeps again, as it mostly does on a system that seldom moves who waits; the
    processes of a core take turns.

    Args:
        number: of cores; None gives every process one of its own.
        slice_s: how long one runs while others wait.

    Attributes:
        shared: whether a process may have to wait for one.
    """

    def __init__(self, clock: Clock, number: int | None, slice_s: float) -> None:
        self._clock = clock
        self._slice_s = slice_s
        self._cores = [Core(clock, slice_s) for _ in range(number or 0)]
        self.shared = number is not None

    def process(self) -> Process:
        """Return a new process, which has nothing to do yet."""
        return Sharing(self) if self.shared else Alone(self._clock)

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
        self._clock.after(busy_s, self._ran, process, busy_s, slice_s - busy_s)

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
    """A process with a core of its own.

    Attributes:
        free_s: when all that was to be done is.
    """

    def __init__(self, clock: Clock) -> None:
        self.free_s = 0.0
        self._clock = clock

    def work(self, busy_s: float) -> float:
        """Use the core for so many seconds, ahead of the clock; return when they are over."""
        now_s, free_s = self._clock.now_s, self.free_s
        self.free_s = (now_s if now_s > free_s else free_s) + busy_s
        return self.free_s

    def run(self, busy_s: float, then: Action, *args: Any) -> None:
        self._clock.at(self.work(busy_s), then, *args)


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
        self._work: deque[tuple[float, Action, tuple[Any, ...]]] = deque()

    @property
    def left_s(self) -> float:
        """What the first work still takes."""
        return self._work[0][0]

    def run(self, busy_s: float, then: Action, *args: Any) -> None:
        self._work.append((busy_s, then, args))
        if not self.awake:
            self.awake = True
            self._cores.wake(self)

    def advance(self, busy_s: float) -> None:
        """Note that the first work has been done for so long."""
        left_s, then, args = self._work[0]
        if busy_s < left_s:
            self._work[0] = left_s - busy_s, then, args
            return
        self._work.popleft()
        then(*args)
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
            self._clock.at(self._summed_s(self._clock.now_s), self._complete, waiting)

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

    def arrival_s(self, source: int, target: int, size: int, sent_s: float) -> float:
        """Return when all of a message of ``size`` bytes that is sent then has arrived."""
        if not size or self._speed.infinite:
            return sent_s + self._latency_s
        through_s = self._speed.through_s
        out_free_s, in_free_s = self._out_free_s[source], self._in_free_s[target]
        begin_s = sent_s if sent_s > out_free_s else out_free_s
        self._out_free_s[source] = through_s(begin_s, size)
        first_s = begin_s + self._latency_s
        begin_s = first_s if first_s > in_free_s else in_free_s
        self._in_free_s[target] = end_s = through_s(begin_s, size)
        return end_s

    def send(self, source: int, target: int, size: int, then: Action, *args: Any) -> None:
        """Carry a message of ``size`` bytes; call ``then`` when all of it has arrived."""
        self._clock.at(self.arrival_s(source, target, size, self._clock.now_s), then, *args)
