"""When one shard does what was decided for all of them: averages, waits for the other shards' part
of the norm, updates, sends, forgets.

Rank 0 decides and every server, rank 0 among them, runs one of these machines over its shard. All
are handed the same decisions in the same order, so a version is the same gradients on every shard.
Pure, like the policies: the shell performs the effects, and says when what takes time is done.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

Squares = tuple[float, ...]
"""What one server's part of a gradient adds to the square of its norm, as numbers to be summed."""


@dataclass(frozen=True, slots=True)
class Update:
    """Decided: average these slots in this order with these weights (they sum to 1), and make the
    update to ``version`` with it, with ``rate`` times the learning rate."""

    version: int
    slots: tuple[int, ...]
    weights: tuple[float, ...]
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Discard:
    """Decided: forget what lies in this slot, once it is there."""

    slot: int


# Events


@dataclass(frozen=True, slots=True)
class Decided:
    """The next decision: an :class:`Update`, a :class:`Discard`, or anything else that is to be
    done after what was decided before, which becomes an effect in its turn."""

    decision: Any


@dataclass(frozen=True, slots=True)
class Landed:
    """What a worker pushed is here, in its slot; ``squares`` are of the whole of it, on all
    servers."""

    slot: int
    squares: Squares = ()


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean is made; ``squares`` are of this server's part of it."""

    squares: Squares = ()


@dataclass(frozen=True, slots=True)
class NormOf:
    """Another server's part of the mean that leads to ``version`` has these squares. Who stands by
    for a server tells the same; what comes second changes nothing."""

    server: int
    version: int
    squares: Squares


@dataclass(frozen=True, slots=True)
class Updated:
    """The update is made."""


@dataclass(frozen=True, slots=True)
class Voided:
    """What has landed in this slot, if anything, does not count, unless it was decided about."""

    slot: int


Event = Decided | Landed | Averaged | NormOf | Updated | Voided


# Effects


@dataclass(frozen=True, slots=True)
class Average:
    """Make the mean of an update; say :class:`Averaged` when it is made."""

    update: Update


@dataclass(frozen=True, slots=True)
class ShareNorm:
    """Tell all other servers the squares of this one's part."""

    version: int
    squares: Squares


@dataclass(frozen=True, slots=True)
class Renew:
    """Make the update with the mean; say :class:`Updated` when it is made. ``squares`` are of all
    servers' parts, in their order."""

    update: Update
    squares: Squares


@dataclass(frozen=True, slots=True)
class Forget:
    """What lies in these slots is not needed any more."""

    slots: tuple[int, ...]


Effect = Any
"""One of these, or a decision whose turn has come."""


class ShardOrder:
    """The order of one shard.

    Args:
        server: whose shard this is.
        servers: how many there are.
        version: of the shard.

    Attributes:
        updating: the update that has begun and is not made yet.
    """

    def __init__(self, server: int, servers: int, version: int = 0) -> None:
        self.updating: Update | None = None
        self._server = server
        self._servers = servers
        self._decisions: deque[Any] = deque()
        self._landed: dict[int, Squares] = {}
        self._norms: defaultdict[int, dict[int, Squares]] = defaultdict(dict)
        self._version = version

    @property
    def idle(self) -> bool:
        """Whether all that was decided is done."""
        return self.updating is None and not self._decisions

    @property
    def waits_for_norms(self) -> bool:
        """Whether an update waits for other servers' parts of its norm."""
        update = self.updating
        return update is not None and self._server in self._norms.get(update.version, {})

    def handle(self, event: Event) -> list[Effect]:
        """Return what to do, in order."""
        match event:
            case Decided(decision):
                self._decisions.append(decision)
            case Landed(slot, squares):
                assert slot not in self._landed, f"slot {slot} is taken"
                self._landed[slot] = squares
            case NormOf(server, version, squares):
                if version > self._version:
                    self._norms[version][server] = squares
                return self._try_renew()
            case Averaged(squares):
                return self._averaged(squares)
            case Updated():
                return self._updated()
            case Voided(slot):
                void = slot in self._landed and not self._is_decided(slot)
                if void:
                    del self._landed[slot]
                return [Forget((slot,))] if void else []
        return self._go_on()

    def _go_on(self) -> list[Effect]:
        """Do what is next, as long as what it is about has landed."""
        effects: list[Effect] = []
        landed = self._landed
        while self._decisions and self.updating is None:
            decision = self._decisions[0]
            match decision:
                case Update(slots=slots):
                    if not all(map(landed.__contains__, slots)):
                        break
                    self.updating = decision
                    effects.append(Average(decision))
                case Discard(slot):
                    if slot not in landed:
                        break
                    del landed[slot]
                    effects.append(Forget((slot,)))
                case _:
                    effects.append(decision)
            self._decisions.popleft()
        return effects

    def _is_decided(self, slot: int) -> bool:
        """Say whether what lies in a slot is in an update that is not made yet, or to be dropped:
        whoever pushed it may be lost by then, with the answer."""
        for decision in (self.updating, *self._decisions):
            match decision:
                case Update(slots=slots) if slot in slots:
                    return True
                case Discard(one) if one == slot:
                    return True
        return False

    def _averaged(self, squares: Squares) -> list[Effect]:
        update = self.updating
        assert update is not None
        if len(update.slots) == 1:
            # Its worker has the whole of it, and told every server its squares.
            return [Renew(update, self._landed[update.slots[0]])]
        self._norms[update.version][self._server] = squares
        share = [ShareNorm(update.version, squares)] if self._servers > 1 else []
        return [*share, *self._try_renew()]

    def _try_renew(self) -> list[Effect]:
        """Update once every server's part is known, with its own when its mean is made; they are
        summed in the same order on all."""
        update = self.updating
        if update is None or len(update.slots) == 1:
            return []
        parts = self._norms[update.version]
        if len(parts) < self._servers:
            return []
        del self._norms[update.version]
        squares = (square for server in range(self._servers) for square in parts[server])
        return [Renew(update, tuple(squares))]

    def _updated(self) -> list[Effect]:
        update, self.updating = self.updating, None
        assert update is not None
        self._version = update.version
        self._norms.pop(update.version, None)
        for slot in update.slots:
            del self._landed[slot]
        return [Forget(update.slots), *self._go_on()]
