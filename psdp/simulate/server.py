"""A simulated server: it receives, decides if it leads, and does what its shard's machine says."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from psdp.protocol import Apply, Drop, Effect, Hosting, SendWeights
from psdp.protocol import order as o
from psdp.simulate.clock import Action, Cores, Network
from psdp.simulate.costs import Costs

_SELF, _OTHERS = 0, 1
"""Whose parts of a norm the machine of a server waits for: the others' count as one."""

Order = tuple[Effect, int]
"""An effect of the policy and, of an answer, the life of its worker that asked for it."""


class Group:
    """The servers of a job, and what they tell one another of the norm of a mean. One goes on when
    it knows the parts of all the others, and is told of them at once: K messages for an update, not
    K (K - 1)."""

    def __init__(self, network: Network) -> None:
        self.servers: Sequence[Server] = ()
        self._network = network
        self._told: defaultdict[int, list[Server]] = defaultdict(list)

    def tell(self, server: Server, version: int) -> None:
        """A server's part of the mean that leads to a version is made."""
        told = self._told[version]
        told.append(server)
        if len(told) == len(self.servers) - 1:
            ranks = {one.rank for one in told}
            missing = [other for other in self.servers if other.rank not in ranks]
            self._know(server.rank, missing, version)
        elif len(told) == len(self.servers):
            self._know(server.rank, told[:-1], version)
            del self._told[version]

    def _know(self, source: int, servers: Sequence[Server], version: int) -> None:
        for server in servers:
            known = partial(server.take_norm, version)
            self._network.send(source, server.rank, 0, known)


class Server:
    """One shard's server, with the machine that real servers run. Like these it does one thing at a
    time, and what it decided before what has arrived.

    Args:
        shard_bytes: of this server.
        cores: on which it computes.
        group: of which it is one, in the order of their ranks.
        hosting: the rank of each worker.
        performed: called after each effect of the policy that this server has performed.
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
        group: Group,
        hosting: Hosting,
        *,
        performed: Callable[[Effect], None],
        answer: Callable[[SendWeights, int], Action],
    ) -> None:
        self.rank = rank
        self._servers = servers
        self._shard_bytes = shard_bytes
        self._costs = costs
        self._process = cores.process()
        self._network = network
        self._group = group
        self._hosting = hosting
        self._performed = performed
        self._answer = answer
        self._busy = False
        self._inbox: deque[tuple[float, Action]] = deque()
        self._machine = o.ShardOrder(_SELF, min(servers, 2))
        self._effects: deque[o.Effect] = deque()
        self._applies: dict[int, Apply] = {}

    # What arrives

    def take(self, busy_s: float, then: Action) -> None:
        """Receive a message that takes so many processor seconds; call ``then`` in its turn."""
        self._inbox.append((busy_s, then))
        self._proceed()

    def land(self, slot: int) -> None:
        """A gradient is here."""
        self._happened(o.Landed(slot))

    def follow(self, orders: list[Order]) -> None:
        """Perform these after what was decided before; rank 0 tells all others."""
        for order in orders:
            self._happened(o.Decided(self._decision(order)))
        if self.rank == 0:
            for peer in self._group.servers[1:]:
                self._network.send(0, peer.rank, 0, partial(peer.follow, orders))

    def _decision(self, order: Order) -> Any:
        match order[0]:
            case Apply(slots, weights, _, _, version, rate) as apply:
                self._applies[version] = apply
                return o.Update(version, slots, weights, rate)
            case Drop(_, slot):
                return o.Discard(slot)
        return order

    def _happened(self, event: o.Event) -> None:
        self._effects += self._machine.handle(event)
        self._proceed()

    # What is done

    def _proceed(self) -> None:
        while not self._busy:
            if self._effects:
                self._perform(self._effects.popleft())
            elif self._inbox:
                self._work(*self._inbox.popleft())
            else:
                return

    def _perform(self, effect: o.Effect) -> None:
        costs = self._costs
        match effect:
            case o.Average(o.Update(slots=slots)):
                # Of a single gradient there is no mean to make.
                busy_s = len(slots) * costs.average_s / self._servers if len(slots) > 1 else None
                self._then(busy_s, o.Averaged())
            case o.ShareNorm(version):
                self._group.tell(self, version)
            case o.Renew(update):
                done = partial(self._updated, self._applies.pop(update.version))
                self._work(costs.apply_s / self._servers, done)
            case (SendWeights() as answer, int(life)):
                self._work(costs.server_message_s, partial(self._send, answer, life))
            case o.Forget():
                pass  # nothing lies there but a number
            case (done, _):
                self._performed(done)

    def take_norm(self, version: int) -> None:
        """All other servers' parts of the norm of a mean are known here."""
        self._happened(o.NormOf(_OTHERS, version, ()))

    def _then(self, busy_s: float | None, event: o.Event) -> None:
        """Let something happen after so many seconds of work, at once if there is none."""
        if busy_s is None:
            self._happened(event)
        else:
            self._work(busy_s, partial(self._happened, event))

    def _updated(self, apply: Apply) -> None:
        self._performed(apply)
        self._happened(o.Updated())

    def _send(self, answer: SendWeights, life: int) -> None:
        to = self._hosting.host(answer.worker)
        assert to is not None
        self._network.send(self.rank, to, self._shard_bytes, self._answer(answer, life))
        self._performed(answer)

    def _work(self, busy_s: float, then: Action) -> None:
        self._busy = True

        def done() -> None:
            self._busy = False
            then()
            self._proceed()

        self._process.run(busy_s, done)
