"""A simulated server: it receives, decides if it leads, and does what its shard's machine says."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psdp.protocol import Apply, Drop, Effect, SendWeights
from psdp.protocol import order as o
from psdp.simulate.clock import Action, Alone, Clock, Cores, Network
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
        self.servers: Sequence[Shard] = ()
        self._network = network
        self._told: defaultdict[int, list[Shard]] = defaultdict(list)

    def tell(self, server: Shard, version: int) -> None:
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

    def _know(self, source: int, servers: Sequence[Shard], version: int) -> None:
        for server in servers:
            self._network.send(source, server.rank, 0, server.take_norm, version)


class Server:
    """The server of a job that has one. Like real ones it does one thing at a time, and what it
    decided before what has arrived. It waits for nobody, so it does that in the order decided.

    Where nothing but what arrives bears on it, it runs ahead of the clock with what is decided, and
    waits for it before it takes the next message.

    Args:
        shard_bytes: of this server.
        cores: on which it computes.
        performed: called after each effect of the policy that this server has performed.
        ranks: of the workers.
        servers: of which each makes a part of every update.
        runs_ahead: whether it does so if it has a core of its own.
        answer: called when an answer is sent, with when its last byte reaches the worker.
    """

    def __init__(
        self,
        rank: int,
        shard_bytes: int,
        cores: Cores,
        performed: Callable[[Effect], None],
        *,
        costs: Costs,
        clock: Clock,
        network: Network,
        ranks: Mapping[int, int],
        servers: int = 1,
        runs_ahead: bool = False,
        answer: Callable[[SendWeights, int, float], None],
    ) -> None:
        self.rank = rank
        self._servers = servers
        self._shard_bytes = shard_bytes
        self._costs = costs
        self._apply_s = costs.apply_s / servers
        self._clock = clock
        self._process = cores.process()
        self._alone = self._process if runs_ahead and isinstance(self._process, Alone) else None
        self._is_ahead = False
        """Of the clock: what has arrived has its turn when all is done that was decided."""
        self._network = network
        self._ranks = ranks
        self._performed = performed
        self._answer = answer
        self._busy = False
        self._inbox: deque[tuple[float, Action, tuple[Any, ...]]] = deque()
        self._effects: deque[Any] = deque()

    @property
    def now_s(self) -> float:
        """The time of what it does."""
        return self._clock.now_s if self._alone is None else self._alone.free_s

    # What arrives

    def take(self, busy_s: float, then: Action, *args: Any) -> None:
        """Receive a message that takes so many processor seconds; call ``then`` in its turn."""
        if self._busy:
            self._inbox.append((busy_s, then, args))
        else:
            self._use_core(busy_s, then, args)

    def land(self, slot: int) -> None:
        """A gradient is here."""
        self._proceed()

    def follow(self, orders: list[Order]) -> None:
        """Perform these after what was decided before."""
        for order in orders:
            self._effects.append(order)
            self._proceed()

    # What is done

    def _proceed(self) -> None:
        while not self._busy:
            if self._effects:
                self._perform(self._effects.popleft())
            elif self._inbox and not self._is_ahead:
                self._use_core(*self._inbox.popleft())
            else:
                return

    def _perform(self, order: Any) -> None:
        effect, life = order
        if isinstance(effect, SendWeights):
            self._work(self._costs.server_message_s, self._send, effect, life)
        elif isinstance(effect, Apply):
            self._average(len(effect.slots), self._renew, effect)
        else:
            self._performed(effect)

    def _average(self, gradients: int, then: Action, *args: Any) -> None:
        if gradients > 1:
            self._work(gradients * self._costs.average_s / self._servers, then, *args)
        else:  # of a single one there is no mean to make
            then(*args)

    def _renew(self, apply: Apply) -> None:
        self._work(self._apply_s, self._performed, apply)

    def _send(self, answer: SendWeights, life: int) -> None:
        to = self._ranks[answer.worker]
        arrives_s = self._network.arrival_s(self.rank, to, self._shard_bytes, self.now_s)
        self._performed(answer)  # before its worker has it
        self._answer(answer, life, arrives_s)

    def _work(self, busy_s: float, then: Action, *args: Any) -> None:
        """Do something that was decided."""
        if self._alone is None:
            self._use_core(busy_s, then, args)
        else:
            self._is_ahead = True
            self._alone.work(busy_s)
            then(*args)

    def _use_core(self, busy_s: float, then: Action, args: tuple[Any, ...]) -> None:
        self._busy = True
        self._process.run(busy_s, self._worked, then, args)

    def _worked(self, then: Action, args: tuple[Any, ...]) -> None:
        self._busy = False
        then(*args)
        self._is_ahead = False
        self._proceed()


class Shard(Server):
    """One of several servers, with the machine that real ones run, as each may have to wait for
    gradients that only others have yet, and for their parts of a norm.

    Args:
        group: of which it is one, in the order of their ranks.
        common, more: as of every :class:`Server`.
    """

    def __init__(self, *common: Any, group: Group, **more: Any) -> None:
        super().__init__(*common, **more)
        self._group = group
        self._machine = o.ShardOrder(_SELF, 2)
        self._applies: dict[int, Apply] = {}

    def land(self, slot: int) -> None:
        self._happened(o.Landed(slot))
        self._proceed()

    def follow(self, orders: list[Order]) -> None:
        """Perform these after what was decided before; rank 0 tells all others."""
        for order in orders:
            self._happened(o.Decided(self._decision(order)))
            self._proceed()
        if self.rank == 0:
            for peer in self._group.servers[1:]:
                self._network.send(0, peer.rank, 0, peer.follow, orders)

    def take_norm(self, version: int) -> None:
        """All other servers' parts of the norm of a mean are known here."""
        self._happened(o.NormOf(_OTHERS, version, ()))
        self._proceed()

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

    def _perform(self, effect: o.Effect) -> None:
        match effect:
            case o.Average(o.Update(slots=slots)):
                self._average(len(slots), self._happened, o.Averaged())
            case o.ShareNorm(version):
                self._group.tell(self, version)
            case o.Renew(update):
                self._work(self._apply_s, self._updated, self._applies.pop(update.version))
            case o.Forget():
                pass  # nothing lies there but a number
            case order:
                super()._perform(order)

    def _updated(self, apply: Apply) -> None:
        self._performed(apply)
        self._happened(o.Updated())
