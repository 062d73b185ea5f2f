"""Shared memory of two ranks, which here are one process: what is seen, copied and refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Work
from psdp.servers.weights import Weights
from psdp.startup.facts import to_bytes
from psdp.transport import Arrival, Endpoint, Sending
from psdp.transport import messages as m
from psdp.transport.headers import encode
from psdp.transport.in_memory import InMemoryEndpoint, InMemoryNetwork, Parcel
from psdp.transport.shared import MemoryCard, Neighbours, SharedMemory, open_memory

SERVER, WORKER = 0, 1


def memory(count: int = 2, size: int = 10, dtype: str = "float64") -> SharedMemory:
    return SharedMemory(count, size, dtype, pytest.fail)


def card_of(owner: SharedMemory, vector: Array) -> MemoryCard:
    card = owner.card(vector)
    assert card is not None
    return card


# Memory and windows


def test_what_one_writes_the_other_reads_at_once_both_ways() -> None:
    owner = memory()
    owner.zeros(10, "float64")
    vector = owner.zeros(10, "float64")
    assert vector.tolist() == [0] * 10
    seen = open_memory(card_of(owner, vector)).vector(range(3, 7), "float64")
    vector[...] = np.arange(10)
    assert seen.tolist() == [3, 4, 5, 6]
    seen[...] = -1
    assert vector.tolist() == [0, 1, 2, -1, -1, -1, -1, 7, 8, 9]


def test_another_process_opens_it_by_its_card() -> None:
    owner = memory()
    vector = owner.zeros(10, "float64")
    code = (
        "import sys\n"
        "from psdp.startup.facts import from_bytes\n"
        "from psdp.transport.shared import MemoryCard, open_memory\n"
        "window = open_memory(from_bytes(MemoryCard, sys.argv[1].encode()))\n"
        "window.vector(range(2, 4), 'float64')[...] = 7\n"
        "window.ring()\n"
    )
    subprocess.run([sys.executable, "-c", code, to_bytes(card_of(owner, vector))], check=True)
    assert vector.tolist() == [0, 0, 7, 7, 0, 0, 0, 0, 0, 0]
    assert owner.listen(0), "it rang"


def test_it_has_no_name_anywhere_and_ends_with_the_last_who_holds_it() -> None:
    before = sorted(Path("/dev/shm").iterdir())
    owner = memory()
    vector = owner.zeros(10, "float64")
    assert sorted(Path("/dev/shm").iterdir()) == before
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{card_of(owner, vector).file}")
    seen = open_memory(card_of(owner, vector)).vector(range(10), "float64")
    vector[...] = 3
    del owner, vector  # a worker that died: what it had pushed can still be applied
    assert seen.tolist() == [3] * 10


def test_the_memory_of_somebody_else_under_the_same_number_is_not_taken() -> None:
    mine, other = memory(), memory()
    vector, others = mine.zeros(10, "float64"), other.zeros(10, "float64")
    foreign = replace(card_of(mine, vector), file=card_of(other, others).file)
    with pytest.raises(OSError, match=r"is /memfd:psdp-\w+ \(deleted\), not psdp-"):
        open_memory(foreign)
    elsewhere = replace(card_of(mine, vector).bell, pid=1 << 22)
    with pytest.raises(FileNotFoundError):
        open_memory(replace(card_of(mine, vector), bell=elsewhere))


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.ENOMEM, errno.EFBIG])
def test_a_vector_for_which_there_is_no_room_is_private_and_said_once(
    reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _place: int, _count: int) -> None:
        raise OSError(reason, os.strerror(reason))

    said: list[str] = []
    owner = SharedMemory(2, 1_000_000, "float32", said.append)
    monkeypatch.setattr(os, "posix_fallocate", full)
    vectors = [owner.zeros(1_000_000, "float32") for _ in range(2)]
    assert said == [
        f"no room to share a vector of 4.0 MB ({os.strerror(reason)}): it goes as MPI messages"
    ]
    assert [owner.card(vector) for vector in vectors] == [None, None]
    for vector in vectors:
        vector[...] = 1  # a write to memory that is not there would be the end of this process


def test_there_is_room_for_as_many_vectors_as_were_announced() -> None:
    said: list[str] = []
    owner = SharedMemory(3, 1000, "float64", said.append)
    vectors = [owner.zeros(1000, "float64") for _ in range(4)]
    assert [owner.offset(vector.view("uint8")) for vector in vectors] == [0, 8192, 16384, None]
    assert len(said) == 1


def test_an_empty_vector_is_nowhere() -> None:
    owner = memory()
    assert owner.card(owner.zeros(0, "float64")) is None


def test_a_bell_wakes_a_sleeper_and_is_heard_once() -> None:
    owner = memory()
    window = open_memory(card_of(owner, owner.zeros(10, "float64")))
    assert not owner.listen(0.001)
    for _ in range(100_000):  # more than a pipe holds
        window.ring()
    begin_s = time.monotonic()
    assert owner.listen(60)
    assert time.monotonic() - begin_s < 30
    while owner.listen(0):
        pass
    del owner
    window.ring()  # nobody is there any more


# Endpoints that share


class Pair:
    """A server and a worker with vectors (10,), in shared memory."""

    def __init__(self) -> None:
        self.memories = [memory(count=4), memory(count=1)]
        self.weights = self.memories[SERVER].zeros(10, "float64")
        self.gradient = self.memories[WORKER].zeros(10, "float64")
        cards = [
            card_of(self.memories[SERVER], self.weights),
            card_of(self.memories[WORKER], self.gradient),
        ]
        windows = [{WORKER: open_memory(cards[WORKER])}, {SERVER: open_memory(cards[SERVER])}]
        self.slot = windows[SERVER][WORKER].vector(range(2, 6), "float64")
        self.pulled = np.zeros(10)
        neighbours = {rank: Neighbours(self.memories[rank], windows[rank]) for rank in (0, 1)}
        self.network = InMemoryNetwork(2, neighbours)
        self.server, self.worker = self.network.endpoints
        lands_in(self.server, self.slot)
        lands_in(self.worker, self.pulled)


def lands_in(endpoint: Endpoint, vector: Array) -> None:
    endpoint.landing = lambda _peer, _message: vector


def weights(version: int) -> m.Answer:
    return m.Answer(version, (m.Train(1, 0, 0, 1, 0, Pushed.GRADIENT),))


GRADIENT = m.Gradient(1, Work(0, 0, 8), m.Totals(0.0, 0.0, 0.0, 0.0, 0, 0))


def test_a_push_moves_its_header_alone() -> None:
    pair = Pair()
    pair.gradient[...] = np.arange(10)
    pair.worker.send(SERVER, GRADIENT, pair.gradient[2:6])
    assert pair.network.payload_bytes == 0
    assert pair.server.poll() == Arrival(WORKER, GRADIENT)
    assert pair.slot.tolist() == [2, 3, 4, 5]
    assert pair.server.landing_s == 0
    pair.slot[...] = 9
    assert pair.gradient[2:6].tolist() == [9] * 4
    assert pair.worker.poll() is None


def test_a_pull_is_copied_and_only_then_confirmed() -> None:
    pair = Pair()
    pair.weights[...] = 5
    sending = pair.server.send(WORKER, weights(1), pair.weights)
    assert pair.network.payload_bytes == 0
    assert pair.server.poll() is None
    assert not sending.done
    assert pair.worker.poll() == Arrival(SERVER, weights(1))
    assert pair.pulled.tolist() == [5] * 10
    assert pair.worker.landing_s > 0
    assert not sending.done
    assert pair.server.poll() is None, "a confirmation is between the endpoints"
    assert sending.done


def test_confirmations_are_of_the_oldest_first() -> None:
    pair = Pair()
    sendings = [pair.server.send(WORKER, weights(n), pair.weights) for n in range(3)]
    for count in range(1, 4):
        pair.worker.poll()
        pair.server.poll()
        assert [sending.done for sending in sendings] == [n < count for n in range(3)]


def test_what_lies_in_private_memory_goes_as_a_message_between_the_same_two() -> None:
    pair = Pair()
    private = np.full(10, 4.0)
    sending = pair.server.send(WORKER, weights(1), private)
    assert pair.network.payload_bytes == 80
    assert pair.worker.poll() == Arrival(SERVER, weights(1))
    assert pair.pulled.tolist() == [4] * 10
    assert sending.done


def test_a_peer_that_is_gone_reads_nothing_any_more() -> None:
    pair = Pair()
    sending = pair.server.send(WORKER, weights(1), pair.weights)
    pair.network.kill(WORKER)
    assert not sending.done
    assert pair.server.poll() is not None
    assert sending.done
    assert pair.server.send(WORKER, weights(2), pair.weights).done


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (encode(weights(0), 80, 1 << 40), "announced 80 bytes at offset 1099511627776 of shared"),
        (encode(weights(0), 1 << 40, 0), "announced 1099511627776 bytes at offset 0 of shared"),
        (encode(weights(0), 8, 0), "announced 8 bytes with Answer, expected 80"),
        (encode(m.Taken(), 0), "took weights from shared memory that none lent it"),
    ],
)
def test_a_header_that_points_elsewhere_is_refused(header: bytes, text: str) -> None:
    pair = Pair()
    pair.network.put(WORKER, Parcel(SERVER, header, None, Sending()))
    with pytest.raises(ProtocolError, match=f"rank 0 {text}"):
        pair.worker.poll()


def test_a_place_is_refused_where_nothing_is_shared() -> None:
    network = InMemoryNetwork(2)
    network.put(1, Parcel(0, encode(weights(0), 80, 0), None, Sending()))
    with pytest.raises(ProtocolError, match="where none are shared"):
        network.endpoints[1].poll()


class Late(Pair):
    """The same, where the worker shares its memory only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        neighbours = {SERVER: Neighbours(self.memories[SERVER])}
        self.network = InMemoryNetwork(2, neighbours)
        self.server, self.worker = self.network.endpoints
        lands_in(self.server, np.zeros(4))
        lands_in(self.worker, self.pulled)

    def travelled(self) -> tuple[int, int]:
        """Send a vector each way; return the bytes that travel."""
        assert self.network.payload_bytes == 0
        self.worker.send(SERVER, GRADIENT, self.gradient[2:6])
        pushed = self.network.payload_bytes
        assert self.server.poll() == Arrival(WORKER, GRADIENT)
        self.server.send(WORKER, weights(1), self.weights)
        pulled = self.network.payload_bytes
        self.pulled[...] = 0
        assert self.worker.poll() == Arrival(SERVER, weights(1))
        assert self.pulled.tolist() == self.weights.tolist()
        assert self.server.poll() is None
        return pushed, pulled


@pytest.mark.parametrize("both_at_once", [False, True])
def test_memory_may_be_shared_later(both_at_once: bool) -> None:
    pair = Late()
    pair.weights[...] = 3
    assert pair.travelled() == (32, 80)
    pair.worker.sharing.begin(pair.memories[WORKER], [SERVER])
    assert pair.worker.sharing.begun
    if both_at_once:
        card = pair.memories[SERVER].whole
        pair.server.send(WORKER, shares(card))
    pair.worker.send(SERVER, GRADIENT, pair.gradient[2:6])
    assert pair.network.payload_bytes == 32, "the server has not opened it yet"
    for _ in range(4):
        assert pair.server.poll() in (None, Arrival(WORKER, GRADIENT))
        assert pair.worker.poll() is None
    assert pair.travelled() == (0, 0)
    assert pair.travelled() == (0, 0)


def shares(card: MemoryCard) -> m.Shares:
    bell = card.bell.pid, card.bell.file, card.bell.pipe
    return m.Shares(*bell, card.file, card.name, card.capacity, opened=False)


def test_what_cannot_be_opened_travels_as_before(tmp_path: Path) -> None:
    """It may be on another host; or no memory of this kind at all."""
    (tmp_path / "file").write_bytes(b"secret" * 100)
    with (tmp_path / "file").open("r+b") as file:
        pair = Late()
        pair.worker.sharing.begin(pair.memories[WORKER], [])
        card = pair.memories[SERVER].whole
        for wrong in (
            replace(card, bell=replace(card.bell, pid=1 << 22)),
            replace(card, file=file.fileno(), name="file"),
            replace(card, name=""),
            replace(card, capacity=card.capacity + 4096),
        ):
            pair.server.send(WORKER, shares(wrong))
            pair.server.send(WORKER, replace(shares(wrong), opened=True))
            assert pair.worker.poll() is None
            assert pair.travelled() == (32, 80)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["answer", "update", "copy", "confirm"]), max_size=60))
def test_a_pull_out_of_shared_memory_is_never_torn(actions: list[str]) -> None:
    """However updates and the worker's copy are ordered, it gets the version that was answered."""
    pair, version = Pair(), 0
    shard = Weights(pair.weights, pair.memories[SERVER].zeros)
    answered: list[int] = []
    lent: list[Sending] = []
    for action in actions:
        match action:
            case "answer" if sum(not sending.done for sending in lent) < 3:
                sending = pair.server.send(WORKER, weights(version), shard.values)
                shard.reading(sending)
                answered.append(version)
                lent.append(sending)
            case "update":
                version += 1
                shard.writable()[...] = version
            case "copy" if answered:
                expected = answered.pop(0)
                assert pair.worker.poll() == Arrival(SERVER, weights(expected))
                assert pair.pulled.tolist() == [expected] * 10
            case "confirm":
                assert pair.server.poll() is None


def test_endpoints_take_turns_across_processes_by_the_bell_alone() -> None:
    """Sleeping for a minute, each is woken by the other's message once that looks for more."""
    pair = Pair()
    pair.worker.send(SERVER, GRADIENT, pair.gradient[2:6])
    assert not pair.memories[SERVER].listen(0)
    assert pair.worker.receive(0) is None
    assert pair.memories[SERVER].listen(60)
    assert isinstance(pair.server, InMemoryEndpoint)
    assert pair.server.receive(60) == Arrival(WORKER, GRADIENT)
    pair.server.send(WORKER, weights(1), pair.weights)
    assert pair.server.receive(0) is None
    assert pair.memories[WORKER].listen(60)
