"""Random frames by the thousand, or with ``PSDP_FRAMES`` by the million: none gets through that is
no message, none takes memory, and what a server knows is what it knew before."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from jobs import Training

from psdp.errors import ProtocolError
from psdp.transport import Sending
from psdp.transport.headers import MAX_HEADER_BYTES, decode
from psdp.transport.in_memory import Parcel

FRAMES = int(os.environ.get("PSDP_FRAMES", "20000"))
MOST_BYTES = 64 << 10
"""That a header may take while it is read; one is 1 KiB at most."""

PEER = 2


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


def test_no_frame_crashes_a_reader_or_takes_its_memory() -> None:
    refused, most = 0, 0
    tracemalloc.start()
    try:
        for frame in frames(FRAMES):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            try:
                decode(frame, PEER)
            except ProtocolError:
                refused += 1
            most = max(most, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert refused > FRAMES / 2
    assert most < MOST_BYTES


def test_a_server_that_refuses_a_frame_knows_what_it_knew(tmp_path: Path) -> None:
    run = Training(tmp_path, settings={"servers": 2})
    for server in run.servers:
        known = knows(server)
        for frame in frames(FRAMES // 10, seed=server.endpoint.rank):
            try:
                decode(frame, PEER)
            except ProtocolError:
                run.network.put(server.endpoint.rank, Parcel(PEER, frame, None, Sending()))
                try:
                    server.turn(0.0)
                except ProtocolError:
                    continue
                raise AssertionError(f"taken: {frame!r}") from None
        assert knows(server) == known


def knows(server: Any) -> tuple[Any, ...]:
    progress = server.progress
    return (
        progress.version,
        dict(progress.clocks),
        dict(server.receiving.pushes),
        server.idle,
        np.asarray(server.shard.weights.values).tobytes(),
    )
