"""The order of shards: by hand, and K of them at random, with arrivals in any order and losses."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.protocol.order import (
    Average,
    Averaged,
    Decided,
    Discard,
    Event,
    Forget,
    Landed,
    NormOf,
    Renew,
    ShardOrder,
    ShareNorm,
    Update,
    Updated,
    Voided,
)

FREE = settings(deadline=None, max_examples=300)

PAIR = Update(1, (1, 0), (0.75, 0.25))
LONE = Update(2, (0,), (1.0,), rate=0.5)


def table(order: ShardOrder, *rows: tuple[Event, list[Any]]) -> None:
    for number, (event, effects) in enumerate(rows):
        assert order.handle(event) == effects, f"row {number}: {event}"


def test_one_server_averages_what_has_landed_and_updates_at_once() -> None:
    table(
        order := ShardOrder(0, 1),
        (Decided(PAIR), []),
        (Landed(0, (1.0,)), []),
        (Landed(1, (2.0,)), [Average(PAIR)]),
        (Averaged((5.0,)), [Renew(PAIR, (5.0,))]),
        (Updated(), [Forget((1, 0))]),
    )
    assert order.idle


def test_a_norm_that_two_ranks_tell_of_counts_once() -> None:
    order = ShardOrder(0, 2)
    for event in (Landed(0), Landed(1), Decided(PAIR), NormOf(1, 1, (3.0,)), NormOf(1, 1, (3.0,))):
        order.handle(event)
    table(
        order,
        (Averaged((2.0,)), [ShareNorm(1, (2.0,)), Renew(PAIR, (2.0, 3.0))]),
        (NormOf(1, 1, (3.0,)), []),
        (Updated(), [Forget((1, 0))]),
        (NormOf(1, 1, (3.0,)), []),
    )
    assert order.idle
    assert not order.waits_for_norms


def test_what_was_decided_about_is_not_void_though_its_rank_is_lost_before_the_update() -> None:
    order = ShardOrder(0, 2)
    for event in (Landed(0), Landed(1), Decided(PAIR)):
        order.handle(event)
    table(
        order,
        (Averaged((2.0,)), [ShareNorm(1, (2.0,))]),
        (Voided(0), []),
        (NormOf(1, 1, (3.0,)), [Renew(PAIR, (2.0, 3.0))]),
        (Updated(), [Forget((1, 0))]),
        (Landed(0), []),
        (Voided(0), [Forget((0,))]),
    )


def test_an_update_waits_for_the_norms_of_all_servers_and_takes_them_in_their_order() -> None:
    order = ShardOrder(1, 3)
    table(
        order,
        (Landed(0), []),
        (Landed(1), []),
        (NormOf(2, 1, (30.0, 31.0)), []),
        (Decided(PAIR), [Average(PAIR)]),
        (NormOf(0, 1, (10.0,)), []),
    )
    assert not order.waits_for_norms, "its own part is still to come"
    table(
        order,
        (Averaged((20.0,)), [ShareNorm(1, (20.0,)), Renew(PAIR, (10.0, 20.0, 30.0, 31.0))]),
        (Updated(), [Forget((1, 0))]),
    )


def test_of_a_single_push_its_worker_has_told_the_norm() -> None:
    table(
        ShardOrder(1, 3),
        (Decided(LONE), []),
        (Landed(0, (4.0,)), [Average(LONE)]),
        (Averaged(()), [Renew(LONE, (4.0,))]),
        (Updated(), [Forget((0,))]),
    )


def test_what_is_decided_after_an_update_waits_for_it() -> None:
    table(
        ShardOrder(0, 1),
        (Decided("before"), ["before"]),
        (Landed(0, (4.0,)), []),
        (Decided(LONE), [Average(LONE)]),
        (Decided("answer"), []),
        (Landed(1), []),
        (Decided(Discard(1)), []),
        (Averaged(()), [Renew(LONE, (4.0,))]),
        (Updated(), [Forget((0,)), "answer", Forget((1,))]),
    )


def test_what_is_dropped_is_forgotten_once_it_is_there_and_its_slot_is_free() -> None:
    table(
        ShardOrder(0, 1),
        (Decided(Discard(0)), []),
        (Decided("after"), []),
        (Landed(0), [Forget((0,)), "after"]),
        (Landed(0, (4.0,)), []),
        (Decided(LONE), [Average(LONE)]),
    )


def test_what_does_not_count_is_forgotten_if_it_is_there_and_may_come_again() -> None:
    table(
        ShardOrder(1, 2),
        (Voided(0), []),
        (Landed(0), []),
        (Landed(1), []),
        (Voided(0), [Forget((0,))]),
        (Decided("after"), ["after"]),
        (Landed(0), []),
        (Decided(PAIR), [Average(PAIR)]),
    )


def test_what_is_to_be_discarded_is_forgotten_once_whatever_else_is_said_of_it() -> None:
    table(
        ShardOrder(0, 1),
        (Landed(0), []),
        (Landed(1), []),
        (Decided(Update(1, (1,), (1.0,))), [Average(Update(1, (1,), (1.0,)))]),
        (Decided(Discard(0)), []),
        (Voided(0), []),
        (Averaged(), [Renew(Update(1, (1,), (1.0,)), ())]),
        (Updated(), [Forget((1,)), Forget((0,))]),
    )


def test_two_pushes_of_one_worker_cannot_be_there_at_once() -> None:
    order = ShardOrder(0, 1)
    order.handle(Landed(0))
    with pytest.raises(AssertionError, match="slot 0 is taken"):
        order.handle(Landed(0))


# At random


@dataclass
class Shard:
    """A server without arrays: what comes to it, and what it has done."""

    number: int
    order: ShardOrder
    mail: dict[str, deque[Event]] = field(default_factory=dict)
    working: Event | None = None
    begun: list[Update] = field(default_factory=list)
    made: list[tuple[Update, tuple[float, ...]]] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)
    holds: set[int] = field(default_factory=set)

    def post(self, sender: str, event: Event) -> None:
        self.mail.setdefault(sender, deque()).append(event)


class Servers:
    """K shards with rank 0's decisions on what W workers push, which arrives as it likes: in order
    from each sender, and at any time."""

    def __init__(self, shards: int, workers: int, dice: random.Random) -> None:
        self.shards = [Shard(k, ShardOrder(k, shards)) for k in range(shards)]
        self.dice = dice
        self.out = dict.fromkeys(range(workers), 0)
        """How often each worker has pushed."""
        self.undecided: list[int] = []
        self.decided: list[Any] = []
        self.version = 0
        self.arrived: dict[int, set[int]] = {}
        """Shards that have what a worker pushed last."""
        self.voiding: dict[int, set[int]] = {}
        """Shards that do not know yet that the last push of a worker does not count."""

    def push(self, slot: int) -> None:
        """A worker that was answered pushes to all shards, or to some as its rank dies."""
        every = {shard.number for shard in self.shards}
        dies = self.dice.random() < 0.1
        reaches = {k for k in every if not dies or self.dice.random() < 0.5}
        self.arrived[slot] = set()
        squares = (slot + self.out[slot] / 100,)
        for shard in self.shards:
            if shard.number in reaches:
                shard.post(f"worker {slot}", Landed(slot, squares))
            if dies:
                shard.post("rank 0", Voided(slot))
        if dies:
            self.voiding[slot] = every
        else:
            self.out[slot] += 1

    def decide(self) -> None:
        """Rank 0 decides on some of what it has, and answers; a decision goes to all in order."""
        count = self.dice.randint(1, len(self.undecided))
        slots = self.undecided[:count]
        del self.undecided[:count]
        decisions: list[Any] = [("answer", slot) for slot in slots]
        if self.dice.random() < 0.2:
            decisions = [*map(Discard, slots), *decisions]
        else:
            self.version += 1
            weights = tuple(1 / len(slots) for _ in slots)
            decisions = [Update(self.version, tuple(slots), weights), *decisions]
        for decision in decisions:
            self.decided.append(decision)
            for shard in self.shards:
                shard.post("rank 0", Decided(decision))

    def waits(self, slot: int) -> bool:
        """Say whether a worker was answered by all shards and may push, or push again."""
        answers = [sum(a == ("answer", slot) for a in shard.said) for shard in self.shards]
        return not self.voiding.get(slot) and min(answers) == self.out[slot]

    def landed(self, shard: Shard, slot: int) -> None:
        """A push counts once all shards have it."""
        shard.holds.add(slot)
        self.arrived[slot].add(shard.number)
        if len(self.arrived[slot]) == len(self.shards) and not self.voiding.get(slot):
            self.undecided.append(slot)

    def voided(self, shard: Shard, slot: int) -> None:
        """What the lost rank has sent and is not here yet is not taken any more."""
        shard.mail.pop(f"worker {slot}", None)
        self.voiding[slot].discard(shard.number)

    def move(self) -> bool:
        """Let one thing happen somewhere; say whether anything can."""
        choices: list[Any] = [
            (shard, sender) for shard in self.shards for sender, mail in shard.mail.items() if mail
        ]
        choices += [(shard, None) for shard in self.shards if shard.working is not None]
        if not choices:
            return False
        shard, sender = self.dice.choice(choices)
        if sender is None:
            event, shard.working = shard.working, None
        else:
            event = shard.mail[sender].popleft()
        match event:
            case Landed(slot):
                self.landed(shard, slot)
            case Voided(slot):
                self.voided(shard, slot)
        for effect in shard.order.handle(event):
            self.perform(shard, effect)
        return True

    def perform(self, shard: Shard, effect: Any) -> None:
        match effect:
            case Average(update):
                assert shard.working is None
                assert shard.holds.issuperset(update.slots)
                shard.begun.append(update)
                shard.working = Averaged((100.0 * update.version + shard.number,))
            case ShareNorm(version, squares):
                for other in self.shards:
                    if other is not shard:
                        other.post(f"server {shard.number}", NormOf(shard.number, version, squares))
            case Renew(update, squares):
                assert shard.working is None
                shard.made.append((update, squares))
                shard.working = Updated()
            case Forget(slots):
                assert shard.holds.issuperset(slots)
                shard.holds.difference_update(slots)
            case decision:
                assert shard.working is None, "what comes after an update is done after it"
                shard.said.append(decision)


def run(shards: int, workers: int, seed: int, pushes: int) -> Servers:
    """Let workers push and rank 0 decide until so much was pushed and all has settled."""
    servers = Servers(shards, workers, random.Random(seed))
    left = pushes
    while True:
        ready = [slot for slot in servers.out if left and servers.waits(slot)]
        if ready and servers.dice.random() < 0.3:
            servers.push(servers.dice.choice(ready))
            left -= 1
        elif servers.undecided and servers.dice.random() < 0.3:
            servers.decide()
        elif not servers.move() and not ready and not servers.undecided:
            return servers


@FREE
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1 << 32), st.integers(0, 40))
def test_every_shard_does_what_was_decided_in_that_order_and_nothing_else(
    shards: int, workers: int, seed: int, pushes: int
) -> None:
    servers = run(shards, workers, seed, pushes)
    updates = [decision for decision in servers.decided if isinstance(decision, Update)]
    others = [decision for decision in servers.decided if isinstance(decision, tuple)]
    for shard in servers.shards:
        made = [update for update, _ in shard.made]
        assert made == shard.begun == updates
        assert shard.said == others
        assert shard.order.idle
        for update, squares in shard.made:
            if len(update.slots) > 1:
                parts = [100.0 * update.version + k for k in range(shards)]
                assert list(squares) == parts, "of all servers, in their order"
    everywhere = {(update, squares) for shard in servers.shards for update, squares in shard.made}
    assert len({update.version for update, _ in everywhere}) == len(everywhere), "alike on all"


@FREE
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 1 << 32))
def test_no_shard_is_ahead_of_one_that_has_not_told_its_norm(
    shards: int, workers: int, seed: int
) -> None:
    servers = run(shards, workers, seed, 40)
    for shard in servers.shards:
        for update, _ in shard.made:
            if len(update.slots) > 1:
                assert all(update in other.begun for other in servers.shards)
