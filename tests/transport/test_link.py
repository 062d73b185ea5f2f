"""A link that lets a rank's messages out slowly."""

from __future__ import annotations

import numpy as np

from psdp.protocol import Work
from psdp.transport import Arrival
from psdp.transport.in_memory import InMemoryEndpoint, InMemoryNetwork
from psdp.transport.link import Link
from psdp.transport.messages import Gradient, Totals


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_messages_leave_in_order_each_after_its_own_time() -> None:
    clock, left = Clock(), []
    link = Link(8.0, clock)  # a megabyte a second
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
    assert Link(1.0, Clock()).next_s() == float("inf")


def test_a_payload_is_the_senders_until_it_has_left() -> None:
    network, clock = InMemoryNetwork(2), Clock()
    sender = InMemoryEndpoint(network, 0, [1], link=Link(8.0, clock))
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
