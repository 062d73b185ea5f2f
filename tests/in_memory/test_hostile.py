"""Random frames by the thousand, or with ``PSDP_FRAMES`` by the million: none gets through that is
no message, none takes memory, and what a server knows is what it knew before. And messages of any
kind to any rank: those that make no sense are refused, and named."""

from __future__ import annotations

import os
import random
import resource
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from any_message import messages_of
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import Training

from psdp.errors import PeerLost, ProtocolError
from psdp.params import Array
from psdp.servers.ending import Stopped
from psdp.servers.relief import Excused
from psdp.servers.terms import TermEnds
from psdp.transport import Sending
from psdp.transport import messages as m
from psdp.transport.headers import MAX_HEADER_BYTES, decode, encode
from psdp.transport.in_memory import Parcel
from psdp.workers.listening import TermBegins
from psdp.workers.spare import Spare

FRAMES = int(os.environ.get("PSDP_FRAMES", "20000"))
MOST_BYTES = 64 << 10
"""That a header may take while it is read; one is 1 KiB at most."""

LITTLE_BYTES = 64 << 20
"""That all of them may take together, in arenas and what else Python asks for at once."""

PEER = 2
SPARE = 4
RANKS = {"leads": 0, "serves": 1, "computes": 2, "is to serve": SPARE, "stands by for who leads": 5}
WHOLE = st.one_of(st.integers(0, 8), st.sampled_from([64, 1 << 40, (1 << 63) - 1]))


def frames(count: int, seed: int = 1) -> Iterator[bytes]:
    """Yield bytes of no meaning, lists that look like headers, and such lists with damage."""
    dice = random.Random(seed)
    plain: list[Any] = [None, True, -1, 0, 1, 2, 1 << 40, -(1 << 63), 0.5, float("nan"), "", "sha"]
    for _ in range(count):
        if dice.random() < 0.2:
            yield dice.randbytes(dice.choice((3, 30, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1)))
            continue
        values = [dice.choice(plain) for _ in range(dice.randrange(14))]
        if dice.random() < 0.5:
            values[dice.randrange(len(values) + 1) :] = [
                dice.sample(plain, 4),
                [dice.sample(plain, 7)],
            ]
        header = bytearray(
            msgpack.packb([dice.randrange(-2, 40), dice.choice((0, 8)), -1, *values])
        )
        if dice.random() < 0.5:
            header[dice.randrange(len(header))] = dice.randrange(256)
        yield bytes(header[: dice.randrange(1, 2 * len(header))])


def refuses(frame: bytes) -> bool:
    """Say whether a frame is no message."""
    try:
        decode(frame, PEER)
    except ProtocolError:
        return True
    return False


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the system give this process no more than a little, as far as it gives any limit."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + LITTLE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_no_frame_crashes_a_reader_or_takes_much_memory() -> None:
    with little_memory():
        assert sum(map(refuses, frames(FRAMES))) > FRAMES / 2


def test_no_frame_takes_more_memory_than_a_header_may() -> None:
    most = 0
    tracemalloc.start()  # which takes ten times as long as to read
    try:
        for frame in frames(FRAMES // 10, seed=2):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            refuses(frame)
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert most < MOST_BYTES


def test_a_server_that_refuses_a_frame_knows_what_it_knew(tmp_path: Path) -> None:
    run = Training(tmp_path, settings={"servers": 2})
    for server in run.servers:
        known = knows(server)
        for frame in frames(FRAMES // 10, seed=server.endpoint.rank):
            if refuses(frame):
                run.network.put(server.endpoint.rank, Parcel(PEER, frame, None, Sending()))
                try:
                    server.turn(0.0)
                except ProtocolError:
                    continue
                raise AssertionError(f"taken: {frame!r}")
        assert knows(server) == known


@settings(max_examples=60)
@given(
    st.lists(st.tuples(messages_of(WHOLE, st.floats()), st.integers(0, 5)), max_size=40),
    st.sampled_from(sorted(RANKS.values())),
    st.sampled_from([{"mode": "sync"}, {"mode": "async"}, {"mode": "local", "local_steps": 2}]),
)
def test_messages_without_sense_are_refused_or_taken(
    heard: list[tuple[m.Message, int]], rank: int, mode: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        common = {"servers": 2, "standby": True, "virtual_workers": 3, "transport": "messages"}
        run = Training(Path(folder), workers=3, settings=common | {"spares": 1} | mode)
        run.leader.course.begin()
        serves = rank in run.job.holding
        others = sorted({*(range(7) if serves else run.job.holding)} - {rank})
        spare = run.ranks[SPARE].role
        assert isinstance(spare, Spare)
        if rank == SPARE:
            heard.insert(0, (m.Prepare((1,)), others.index(0)))
        while serves and run.role(rank).serving.turn(0.0):
            pass
        for message, pick in heard:
            peer = others[pick % len(others)]
            payload = payload_of(run, rank, peer) if isinstance(message, m.WITH_PAYLOAD) else None
            header = encode(message, 0 if payload is None else payload.nbytes)
            run.network.put(rank, Parcel(peer, header, payload, Sending()))
            try:
                if serves:
                    run.role(rank).serving.turn(0.0)
                elif rank == SPARE:
                    spare.look()
                else:
                    run.worker(rank - 2).exchange.listening.next(0.0)
            except ProtocolError:
                continue
            except (Excused, PeerLost, Stopped, TermBegins, TermEnds):
                return


def payload_of(run: Training, rank: int, peer: int) -> Array:
    """Return a payload of the size that a rank expects of a peer."""
    job = run.job
    serves = rank in job.holding
    spans = job.payloads[job.shard_of(rank)] if serves else job.shards[job.shard_of(peer)]
    return np.zeros(8 * len(spans), np.uint8)


def knows(server: Any) -> tuple[Any, ...]:
    progress = server.progress
    return (
        progress.version,
        dict(progress.clocks),
        dict(server.receiving.pushes),
        server.idle,
        np.asarray(server.shard.weights.values).tobytes(),
    )
