"""A link that lets a rank's messages out slowly."""

from __future__ import annotations

import numpy as np

from psdp.config.handicap import parse_slow_link
from psdp.protocol import Work
from psdp.transport import Arrival
from psdp.transport.in_memory import InMemoryEndpoint, InMemoryNetwork
from psdp.transport.link import Link, LinkSpeed
from psdp.transport.messages import Gradient, Totals


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_messages_leave_in_order_each_after_its_own_time() -> None:
    clock, left = Clock(), []
    link = Link(LinkSpeed(8.0), clock)  # a megabyte a second
    link.post(500_000, lambda: left.append("a"))
    link.post(1_000_000, lambda: left.append("b"))
    for now_s, expected in ((100.4, []), (100.5, ["a"]), (101.4, ["a"]), (101.5, ["a", "b"])):
        clock.now_s = now_s
        link.release()
        assert left == expected
    clock.now_s = 110.0
    link.post(1_000_000, lambda: left.append("c"))
    link.release()
    assert left == ["a", "b"]
    assert abs(link.next_s() - 1.0) < 1e-9


def test_a_link_that_is_free_has_nothing_to_wait_for() -> None:
    assert Link(LinkSpeed(1.0), Clock()).next_s() == float("inf")


def test_a_link_may_be_slower_for_a_while() -> None:
    speed = LinkSpeed(8.0, parse_slow_link("10@2s-5s,2@4s-8s"))  # a megabyte a second
    for begin_s, size, end_s in [
        *[(0.0, 1e6, 1.0), (0.0, 2e6, 2.0), (8.0, 1e6, 9.0), (9.0, 0, 9.0)],
        *[(2.0, 1e5, 3.0), (1.0, 1.1e6, 3.0)],  # a tenth of a megabyte a second
        (4.0, 5e4, 5.0),  # both at once
        (1.0, 1e6 + 2e5 + 5e4 + 1.5e6 + 1e6, 9.0),  # all of it, before and after
    ]:
        assert abs(speed.through_s(begin_s, size) - end_s) < 1e-9
    assert LinkSpeed(float("inf")).through_s(3.0, 10**12) == 3.0


def test_a_message_that_waits_leaves_at_the_speed_of_its_time() -> None:
    clock, left = Clock(), []
    link = Link(LinkSpeed(8.0, parse_slow_link("4@1s-")), clock)
    for name in "ab":
        link.post(1_000_000, lambda name=name: left.append(name))
    for now_s, expected in ((101.0, ["a"]), (104.9, ["a"]), (105.0, ["a", "b"])):
        clock.now_s = now_s
        link.release()
        assert left == expected


def test_a_payload_is_the_senders_until_it_has_left() -> None:
    network, clock = InMemoryNetwork(2), Clock()
    sender = InMemoryEndpoint(network, 0, [1], link=Link(LinkSpeed(8.0), clock))
    receiver = network.endpoints[1]
    landing = np.zeros(250_000, "f4")
    receiver.landing = lambda peer, message: landing
    vector = np.ones(250_000, "f4")
    message = Gradient(1, Work(0, 0, 8), Totals(0.0, 0.0, 0.0, 0.0, 0, 0))
    sending = sender.send(1, message, vector)
    assert sender.receive(0.0) is None
    assert receiver.receive(0.0) is None
    assert not sending.done
    clock.now_s += 1.1
    sender.receive(0.0)
    assert receiver.receive(0.0) == Arrival(0, message)
    assert sending.done
    assert landing.all()
