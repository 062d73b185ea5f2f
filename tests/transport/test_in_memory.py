"""The in-memory network: order, landing, and the loss of peers, as MPI would have them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Work
from psdp.transport import Arrival, Lost
from psdp.transport.in_memory import InMemoryEndpoint, InMemoryNetwork, InMemorySums, Killed
from psdp.transport.messages import (
    Answer,
    AskSnapshot,
    Closed,
    Finish,
    Gradient,
    Message,
    PartialNorm,
    Totals,
    Train,
)


def weights(version: int) -> Answer:
    return Answer(version, (Train(1, version, version, 1, 0, Pushed.GRADIENT),))


def lands_in(endpoint: InMemoryEndpoint, vector: Array) -> None:
    def landing(_peer: int, _message: Message) -> Array:
        return vector

    endpoint.landing = landing


def test_messages_of_a_peer_arrive_in_the_order_it_sent_them() -> None:
    a, b = InMemoryNetwork(2).endpoints
    sendings = [a.send(1, AskSnapshot(number)) for number in range(20)]
    assert not any(sending.done for sending in sendings)
    assert [b.poll() for _ in range(21)] == [
        *(Arrival(0, AskSnapshot(number)) for number in range(20)),
        None,
    ]
    assert all(sending.done for sending in sendings)


def test_a_payload_lands_where_the_receiver_says_when_it_polls() -> None:
    a, b = InMemoryNetwork(2).endpoints
    vector, seen = np.zeros(3), []

    def landing(peer: int, message: Message) -> Array:
        seen.append((peer, message))
        return vector

    b.landing = landing
    payload = np.arange(3.0)
    sending = a.send(1, weights(7), payload)
    payload += 10  # what is sent is the memory as it is when it is received
    assert not sending.done
    assert b.poll() == Arrival(0, weights(7))
    assert sending.done
    assert seen == [(0, weights(7))]
    np.testing.assert_array_equal(vector, [10.0, 11.0, 12.0])


def test_a_float32_payload_lands_bit_for_bit() -> None:
    a, b = InMemoryNetwork(2).endpoints
    payload = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    vector = np.empty_like(payload)
    lands_in(b, vector)
    a.send(1, weights(0), payload)
    b.poll()
    np.testing.assert_array_equal(vector, payload)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_payload_of_another_size_than_its_landing_is_refused(size: int) -> None:
    a, b = InMemoryNetwork(2).endpoints
    vector = np.zeros(3)
    lands_in(b, vector)
    a.send(1, weights(0), np.ones(size))
    text = f"rank 0 announced {8 * size} bytes with Answer, expected 24: do all ranks run the same"
    with pytest.raises(ProtocolError, match=text):
        b.poll()
    np.testing.assert_array_equal(vector, np.zeros(3))


@pytest.mark.parametrize(
    "message",
    [weights(0), Gradient(1, Work(0, 0, 8), Totals(0.0, 0.0, 0.0, 0.0, 0, 0))],
    ids=["weights", "gradient"],
)
def test_a_vector_that_is_missing_altogether_is_refused(message: Message) -> None:
    a, b = InMemoryNetwork(2).endpoints
    lands_in(b, np.zeros(3))
    a.send(1, message)
    with pytest.raises(ProtocolError, match=r"rank 0 announced 0 bytes with .*, expected 24"):
        b.poll()


def test_an_empty_shard_travels_too() -> None:
    a, b = InMemoryNetwork(2).endpoints
    lands_in(b, np.zeros(0))
    a.send(1, weights(0), np.zeros(0))
    assert b.poll() == Arrival(0, weights(0))


def test_a_payload_that_nobody_expects_is_refused() -> None:
    a, b = InMemoryNetwork(2).endpoints
    a.send(1, PartialNorm(1, (2.0,)), np.zeros(3))
    with pytest.raises(ProtocolError, match="rank 0 sent a payload with PartialNorm; none expect"):
        b.poll()


def test_a_killed_rank_is_lost_to_all_others_after_what_it_had_sent() -> None:
    network = InMemoryNetwork(3)
    a, b, c = network.endpoints
    a.send(1, AskSnapshot(1))
    network.kill(0)
    with pytest.raises(Killed):
        a.send(1, AskSnapshot(2))
    assert [b.poll(), b.poll(), b.poll()] == [
        Arrival(0, AskSnapshot(1)),
        Lost(0, "killed"),
        None,
    ]
    assert [c.poll(), c.poll()] == [Lost(0, "killed"), None]


def test_what_is_sent_to_a_killed_rank_is_done_at_once() -> None:
    network = InMemoryNetwork(2)
    network.kill(0)
    assert network.endpoints[1].send(0, Finish(), np.zeros(3)).done


def test_a_sum_is_there_once_all_ranks_have_brought_their_part() -> None:
    sums = InMemorySums(2)
    a, b = sums.reducer(0), sums.reducer(1)
    vectors = [np.array([1.0, 2.0]), np.array([10.0, 20.0])]
    a.begin(vectors[0])
    assert not a.wait(0.01)
    b.begin(vectors[1])
    assert b.wait(0.0)
    b.begin(vectors[1])  # the next sum, before the other rank has looked
    assert a.wait(0.0)
    assert [v.tolist() for v in vectors] == [[11.0, 22.0], [11.0, 22.0]]
    a.begin(vectors[0])
    assert a.wait(0.0)
    assert vectors[0].tolist() == [22.0, 44.0]


def test_receive_returns_none_when_nothing_comes_in_time() -> None:
    endpoint = InMemoryNetwork(2).endpoints[0]
    assert endpoint.receive(0.01) is None


def test_flush_waits_for_its_sendings_and_returns_what_came_meanwhile() -> None:
    a, b = InMemoryNetwork(2).endpoints
    b.send(0, AskSnapshot(1))
    b.send(0, AskSnapshot(2))
    sendings = [a.send(1, Finish()), a.send(1, Finish())]
    reader = threading.Timer(0.05, lambda: [b.poll(), b.poll()])
    reader.daemon = True
    reader.start()
    assert a.flush(sendings) == [Arrival(1, AskSnapshot(1)), Arrival(1, AskSnapshot(2))]
    assert a.flush([]) == []


def test_what_was_sent_in_an_earlier_term_is_void() -> None:
    a, b = InMemoryNetwork(2).endpoints
    vector = np.zeros(3)
    lands_in(b, vector)
    sending = a.send(1, weights(7), np.arange(3.0))
    b.begin(1, most_bytes=24)
    a.send(1, AskSnapshot(1))
    a.send(1, Closed(1))  # is of any term
    a.begin(1, most_bytes=24)
    assert a.poll() is None, "that a peer begins a term is between the endpoints"
    a.send(1, AskSnapshot(2))
    assert [b.poll() for _ in range(3)] == [Arrival(0, Closed(1)), Arrival(0, AskSnapshot(2)), None]
    assert sending.done
    np.testing.assert_array_equal(vector, np.zeros(3))


def test_what_is_sent_in_a_term_waits_until_its_receiver_has_begun_it() -> None:
    a, b = InMemoryNetwork(2).endpoints
    a.begin(1, most_bytes=24)
    sendings = [a.send(1, AskSnapshot(1)), a.send(1, Closed(1))]
    assert [b.poll(), b.poll()] == [Arrival(0, Closed(1)), None]
    assert [sending.done for sending in sendings] == [False, True]
    b.begin(1, most_bytes=24)
    assert a.poll() is None
    assert b.poll() == Arrival(0, AskSnapshot(1))
    a.begin(2, most_bytes=24)
    waits = a.send(1, AskSnapshot(2))
    a.begin(3, most_bytes=24)
    assert waits.done, "it is void"
    b.begin(3, most_bytes=24)
    assert [a.poll(), b.poll()] == [None, None]


def test_a_void_payload_is_bounded() -> None:
    a, b = InMemoryNetwork(2).endpoints
    a.send(1, weights(7), np.arange(4.0))
    b.begin(1, most_bytes=24)
    with pytest.raises(ProtocolError, match="32 bytes with Answer of a term that is over"):
        b.poll()


def test_what_is_on_its_way_to_a_rank_that_dies_is_not_waited_for() -> None:
    network = InMemoryNetwork(2)
    sending = network.endpoints[0].send(1, AskSnapshot(1))
    network.kill(1)
    assert sending.done
