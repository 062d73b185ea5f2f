"""The MPI transport under a real mpirun."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from mpi import run_job

from psdp.launch.mpirun import find_launcher, has_ulfm, version_of

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))
START = """
import sys, time
import numpy as np
from psdp.errors import ProtocolError
from psdp.transport import Arrival
from psdp.transport.messages import *
from psdp.transport.headers import *
from psdp.transport.mpi import MpiEndpoint, MpiWorld

world = MpiWorld()
rank, size = world.rank, world.size

def receive(endpoint):
    event = endpoint.receive(20)
    assert event is not None, f"rank {rank} heard nothing"
    return event

def weights(version):
    return Answer(version, (Train(1, 0, 0, 1, 0, Pushed.GRADIENT),))

def refused(endpoint):
    try:
        event = endpoint.receive(10)
    except ProtocolError as error:
        print(f"refused: {error}", flush=True)
    else:
        print(f"not refused, got {event}", flush=True)
"""
END = """
endpoint.close()
print(f"rank {rank} is done", flush=True)
"""
PLAIN = ("--with-ft", "none")
"""Ranks may end in any order, and one ends all."""
ABORT = """
world.exchange(b"")
world.abort(9)
"""


def run(n: int, body: str) -> str:
    """Run ``body`` on n ranks; return what they printed, once all of them came to its end."""
    done = run_job(n, START + body + END, *PLAIN, timeout_s=60)
    finished = [f"rank {rank} is done" in done.stdout for rank in range(n)]
    assert (done.returncode, all(finished)) == (0, True), done.stdout
    return done.stdout


def run_to_abort(n: int, body: str) -> str:
    """Run ``body``, after which the transport is not usable any more; return the output."""
    done = run_job(n, START + body + ABORT, *PLAIN, timeout_s=60)
    assert done.returncode == 9, done.stdout
    return done.stdout


def test_vectors_of_any_size_come_back_bit_for_bit_in_chunks() -> None:
    run(
        2,
        """
endpoint = MpiEndpoint(world.comm, [1 - rank], chunk_bytes=1000)
sizes = [1, 124, 125, 126, 250, 1000, 12345, 0, 3]
rng = np.random.default_rng(1)
vectors = [rng.standard_normal(n) for n in sizes]
targets = [np.full_like(vector, np.nan) for vector in vectors]
endpoint.landing = lambda peer, message: targets[message.version]
returned = []
for number, vector in enumerate(vectors):
    if rank == 0:
        sending = endpoint.send(1, weights(number), vector)
        assert receive(endpoint) == Arrival(1, weights(number))
        assert endpoint.flush([sending]) == []
    else:
        assert receive(endpoint) == Arrival(0, weights(number))
        # Not waited for here: the next may arrive before this one is known to have left.
        returned.append(endpoint.send(0, weights(number), targets[number]))
    np.testing.assert_array_equal(targets[number], vector)
assert endpoint.flush(returned) == []
assert not endpoint.transferring()
""",
    )


def test_many_peers_at_once_each_keep_their_order() -> None:
    run(
        5,
        """
COUNT = 40
endpoint = MpiEndpoint(world.comm, [r for r in range(size) if r != rank], chunk_bytes=1000)

def vector(peer, number):
    return np.full(300 + 7 * number, 1000.0 * peer + number, np.float32)

if rank == 0:
    landings = {}
    def landing(peer, message):
        landings[peer] = np.zeros(300 + 7 * message.version, np.float32)
        return landings[peer]
    endpoint.landing = landing
    heard = {peer: 0 for peer in range(1, size)}
    while any(count < COUNT for count in heard.values()):
        event = receive(endpoint)
        number = heard[event.peer]
        heard[event.peer] += 1
        if number % 3 == 0:
            assert event.message == AskSnapshot(number), event
        else:
            assert event.message == weights(number), event
            np.testing.assert_array_equal(landings[event.peer], vector(event.peer, number))
    assert endpoint.receive(0.2) is None
    endpoint.flush([endpoint.send(peer, Finish()) for peer in heard])
else:
    sendings = []
    for number in range(COUNT):
        if number % 3 == 0:
            sendings.append(endpoint.send(0, AskSnapshot(number)))
        else:
            sendings.append(endpoint.send(0, weights(number), vector(rank, number)))
    assert endpoint.flush(sendings) in ([], [Arrival(0, Finish())])
    endpoint.receive(0)
""",
    )


def test_a_payload_that_is_on_its_way_is_not_lost_to_other_messages() -> None:
    """Two peers push at once while the receiver itself sends to both."""
    run(
        3,
        """
others = [r for r in range(size) if r != rank]
endpoint = MpiEndpoint(world.comm, others, chunk_bytes=4096)
places = {peer: np.zeros(100_000) for peer in others}
endpoint.landing = lambda peer, message: places[peer]
own = np.full(100_000, float(rank))
sendings = [endpoint.send(peer, weights(rank), own) for peer in others]
assert endpoint.transferring()
events = endpoint.flush(sendings)
while len(events) < len(others):
    events.append(receive(endpoint))
assert sorted(event.peer for event in events) == others
for event in events:
    assert event.message == weights(event.peer)
    assert (places[event.peer] == event.peer).all()
world.exchange(b"")
""",
    )


def test_exchange_gathers_bytes_of_unequal_length_in_rank_order() -> None:
    run(
        4,
        """
for target in range(3):
    lengths = [((r + target) % 4) * 1000 for r in range(size)]
    expected = [bytes([r]) * lengths[r] for r in range(size)]
    assert world.exchange(expected[rank]) == expected
assert world.exchange(b"") == [b""] * size
endpoint = world.endpoint([r for r in range(size) if r != rank])
""",
    )


def test_a_header_that_is_none_names_the_rank_that_sent_it() -> None:
    output = run_to_abort(
        3,
        """
endpoint = world.endpoint([r for r in range(size) if r != rank])
if rank == 2:
    world.comm.Send([b"\\x93not a header", 13], dest=0, tag=1)
elif rank == 0:
    refused(endpoint)
""",
    )
    assert "refused: rank 2 sent a bad header of 13 bytes" in output


def test_a_header_longer_than_any_names_the_rank_that_sent_it() -> None:
    output = run_to_abort(
        3,
        """
endpoint = world.endpoint([r for r in range(size) if r != rank])
if rank == 2:
    world.comm.Isend([b"x" * 3000, 3000], dest=0, tag=1)
elif rank == 0:
    refused(endpoint)
""",
    )
    assert "refused: rank 2 sent more bytes than a header (1024)" in output


@pytest.mark.parametrize("elements", [0, 99, 101])
def test_a_vector_of_another_size_than_its_landing_is_refused(elements: int) -> None:
    output = run_to_abort(
        2,
        f"""
endpoint = world.endpoint([1 - rank])
endpoint.landing = lambda peer, message: np.zeros(100)
if rank == 1:
    endpoint.send(0, weights(0), np.ones({elements}))
else:
    refused(endpoint)
""",
    )
    assert f"refused: rank 1 announced {8 * elements} bytes with Answer, expected 800" in output


def test_a_vector_that_is_missing_altogether_is_refused() -> None:
    output = run_to_abort(
        2,
        """
endpoint = world.endpoint([1 - rank])
endpoint.landing = lambda peer, message: np.zeros(100)
if rank == 1:
    endpoint.send(0, weights(0))
else:
    refused(endpoint)
""",
    )
    assert "refused: rank 1 announced 0 bytes with Answer, expected 800" in output


def test_waiting_burns_less_than_a_tenth_of_a_core() -> None:
    run(
        2,
        """
endpoint = world.endpoint([1 - rank])
world.exchange(b"")
before_s = time.process_time()
assert endpoint.receive(2.0) is None
used_s = time.process_time() - before_s
assert used_s < 0.2, f"rank {rank} used {used_s:.3f} s of CPU in 2 s of waiting"
""",
    )


def test_ranks_that_share_wake_one_another_and_hardly_use_their_cores_meanwhile() -> None:
    """Two hundred vectors go there and back; then both wait for two seconds."""
    run(
        2,
        """
from psdp.startup.facts import from_bytes, to_bytes
from psdp.transport.shared import MemoryCard, Neighbours, SharedMemory, open_memory

memory = SharedMemory(1, 100_000, "float64", print)
own, landed = memory.zeros(100_000, "float64"), np.zeros(100_000)
cards = [from_bytes(MemoryCard, raw) for raw in world.exchange(to_bytes(memory.card(own)))]
neighbours = Neighbours(memory, {1 - rank: open_memory(cards[1 - rank])})
world.exchange(b"")
endpoint = world.endpoint([1 - rank], neighbours)
endpoint.landing = lambda peer, message: landed
for number in range(200):
    if rank == 0:
        own[...] = number
        sending = endpoint.send(1, weights(number), own)
        assert not endpoint.transferring()
    assert receive(endpoint) == Arrival(1 - rank, weights(number))
    assert (landed == number).all()
    if rank == 1:
        own[...] = number
        sending = endpoint.send(0, weights(number), own)
    else:
        assert sending.done
before_s = time.process_time()
assert endpoint.receive(2.0) is None
used_s = time.process_time() - before_s
assert used_s < 0.1, f"rank {rank} used {used_s:.3f} s of CPU in 2 s of waiting"
""",
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_some_ranks_are_the_same_bits_on_each_in_any_number_of_pieces(dtype: str) -> None:
    run(
        4,
        f"""
import hashlib
from psdp.transport.mpi.reducer import MpiReducer, PIECES_AT_ONCE

ranks = [1, 2, 3]
reducer = world.reducer(ranks) if rank in ranks else None
for size in (0, 1, 249, 250, 251, 100 * 250 + 7, 300_000):
    assert PIECES_AT_ONCE < 100
    vectors = [np.random.default_rng([size, r]).standard_normal(size).astype({dtype!r})
               for r in ranks]
    digest = b""
    if reducer is not None:
        for piece_bytes in (reducer._piece_bytes, 250 * vectors[0].itemsize):
            reducer._piece_bytes = piece_bytes
            vector = vectors[rank - 1].copy()
            reducer.begin(vector)
            while not reducer.wait(0.5):
                pass
            exact = np.sum(np.array(vectors, np.float64), axis=0)
            np.testing.assert_allclose(vector, exact, rtol=0, atol=4e-6)
            digest += hashlib.sha256(vector).digest()
    assert len(set(world.exchange(digest)[1:])) == 1, size
endpoint = world.endpoint([])
""",
    )


def test_a_sum_that_a_rank_stays_away_from_is_waited_for_no_longer_than_asked() -> None:
    run(
        3,
        """
reducer = world.reducer([1, 2]) if rank else None
vector = np.full(1000, float(rank))
if rank == 1:
    reducer.begin(vector)
    assert not reducer.wait(0.3)
world.exchange(b"")
if rank == 2:
    reducer.begin(vector)
if rank:
    assert reducer.wait(20)
    assert (vector == 3).all()
endpoint = world.endpoint([])
""",
    )


def test_abort_ends_ranks_that_wait_for_ever() -> None:
    done = run_job(
        3,
        START
        + """
endpoint = world.endpoint([r for r in range(size) if r != rank])
if rank == 1:
    world.abort(5)
endpoint.receive(100)
""",
        *PLAIN,
        timeout_s=40,
    )
    assert done.returncode == 5, done.stdout


@pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank")
def test_a_rank_that_is_stopped_can_be_declared_dead_and_ends_when_it_wakes() -> None:
    done = run_job(
        3,
        START
        + """
import os, signal
endpoint = world.endpoint([r for r in range(size) if r != rank])
pid, *_ = (int(told) for told in world.exchange(str(os.getpid()).encode())[2:])
if rank == 2:
    os.kill(os.getpid(), signal.SIGSTOP)
    endpoint.receive(100)
assert endpoint.receive(1) is None
if rank == 0:
    world.declare_dead(2)
while not endpoint.has_lost(2):
    endpoint.receive(0.1)
print(f"rank {rank} is told", flush=True)
if rank == 0:
    time.sleep(2)  # of who ends at once a word may be lost that is on its way
    os.kill(pid, signal.SIGCONT)
os._exit(0)
""",
        timeout_s=40,
    )
    assert done.stdout.count("is told") == 2, done.stdout


def test_no_rank_outlives_its_abort() -> None:
    body = """
world.exchange(b"")
try:
    world.abort(5)
finally:
    print("alive", flush=True)
"""
    for _ in range(3):
        done = run_job(3, START + body, *PLAIN, timeout_s=40)
        assert (done.returncode, "alive" in done.stdout) == (5, False), done.stdout


def test_memory_that_the_mpi_shares_has_no_name_that_could_be_left_behind() -> None:
    run(
        3,
        """
world.exchange(b"")
maps = open("/proc/self/maps").read().splitlines()
shared = [line for line in maps if "/mpich_shm_" in line or "/sm_segment." in line]
assert shared
assert all(line.endswith("(deleted)") for line in shared), shared
endpoint = world.endpoint([])
""",
    )


def test_the_library_and_the_host_have_names() -> None:
    output = run(2, 'print(f"{world.library} on {world.host}"); endpoint = world.endpoint([])')
    assert "MPI" in output or "MPICH" in output
    assert f"on {os.uname().nodename}" in output


def test_the_helper_kills_a_job_that_hangs() -> None:
    begin_s = time.monotonic()
    with pytest.raises(
        pytest.fail.Exception, match=r"still running after 3 s; it said:\n(.*\n)*here"
    ):
        run_job(2, "import time\nprint('here', flush=True)\ntime.sleep(600)\n", timeout_s=3)
    assert time.monotonic() - begin_s < 15
