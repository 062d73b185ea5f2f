"""A simulated server: it receives, decides if it leads, and performs effects in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from psdp.protocol import Apply, Drained, Drop, Effect, SendWeights
from psdp.simulate.clock import Action, Cores, Network
from psdp.simulate.costs import Costs

Order = tuple[Effect, int]
"""An effect and, of an answer, the life of its worker that asked for it."""


class Server:
    """One shard's server. Like the real one it does one thing at a time, what it decided before
    what has arrived, and an update waits for its gradients, then for the others' partial norms.

    Args:
        shard_bytes: of this server.
        cores: on which it computes.
        performed: called after each effect that this server has performed.
        answer: called when the last byte of an answer has reached a worker.
    """

    def __init__(
        self,
        rank: int,
        servers: int,
        shard_bytes: int,
        costs: Costs,
        cores: Cores,
        network: Network,
        *,
        performed: Callable[[Effect], None],
        answer: Callable[[SendWeights, int], Action],
    ) -> None:
        self.rank = rank
        self.peers: list[Server] = []
        self._servers = servers
        self._shard_bytes = shard_bytes
        self._costs = costs
        self._process = cores.process()
        self._network = network
        self._performed = performed
        self._answer = answer
        self._busy = False
        self._inbox: deque[tuple[float, Action]] = deque()
        self._orders: deque[Order] = deque()
        self._landed: set[int] = set()
        self._norms: Counter[int] = Counter()
        self._updating: Apply | None = None

    # What arrives

    def take(self, busy_s: float, then: Action) -> None:
        """Receive a message that takes so many processor seconds; call ``then`` in its turn."""
        self._inbox.append((busy_s, then))
        self._proceed()

    def land(self, slot: int) -> None:
        """A gradient is here."""
        self._landed.add(slot)

    def follow(self, orders: list[Order]) -> None:
        """Perform these after what was decided before."""
        self._orders.extend(orders)
        self._proceed()

    def take_norm(self, version: int) -> None:
        """A server's part of the norm of an averaged gradient is known here."""
        self._norms[version] += 1
        self._proceed()

    # What is done

    def _proceed(self) -> None:
        if self._busy:
            return
        if self._updating is not None:
            version = self._updating.version
            if self._norms[version] == self._servers:
                del self._norms[version]
                self._work(self._costs.apply_s / self._servers, self._updated)
                return
        elif self._orders and self._ready(self._orders[0][0]):
            self._perform(self._orders.popleft())
            return
        if self._inbox:
            self._work(*self._inbox.popleft())

    def _ready(self, effect: Effect) -> bool:
        match effect:
            case Apply(slots):
                return self._landed.issuperset(slots)
            case Drop(_, slot):
                return slot in self._landed
            case _:
                return True

    def _perform(self, order: Order) -> None:
        effect, life = order
        if self.rank == 0 and not isinstance(effect, Drained):
            for peer in self.peers:
                self._network.send(0, peer.rank, 0, partial(peer.follow, [order]))
        match effect:
            case Apply(slots, version=version):
                self._updating = effect
                if len(slots) == 1:
                    # Its worker has sent the whole norm to every server.
                    self._norms[version] = self._servers
                    self._proceed()
                else:
                    busy_s = len(slots) * self._costs.average_s / self._servers
                    self._work(busy_s, partial(self._averaged, version))
            case Drop(_, slot):
                self._landed.discard(slot)
                self._done(effect)
            case SendWeights():
                self._work(self._costs.server_message_s, partial(self._send, effect, life))
            case Drained():
                self._done(effect)

    def _averaged(self, version: int) -> None:
        for peer in self.peers:
            self._network.send(self.rank, peer.rank, 0, partial(peer.take_norm, version))
        self._norms[version] += 1

    def _updated(self) -> None:
        apply, self._updating = self._updating, None
        assert apply is not None
        self._landed.difference_update(apply.slots)
        self._performed(apply)

    def _send(self, effect: SendWeights, life: int) -> None:
        self._network.send(self.rank, effect.rank, self._shard_bytes, self._answer(effect, life))
        self._performed(effect)

    def _done(self, effect: Effect) -> None:
        self._performed(effect)
        self._proceed()

    def _work(self, busy_s: float, then: Action) -> None:
        self._busy = True

        def done() -> None:
            self._busy = False
            then()
            self._proceed()

        self._process.run(busy_s, done)
