"""What files of tokens hold, in short: by which ranks see that they read the same, and a run that
it goes on with what it had.

Files are read, not mapped: where one is cut meanwhile, that is an error, and no fault of memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from psdp.cores import own_cores
from psdp.data.cache import NoCache, alone, keep, kept_at
from psdp.data.files import opened, unreadable
from psdp.data.tokens import Shard
from psdp.processes import on_threads

PIECE = 1 << 22
"""Bytes read at a time."""

SEPARATELY = 1 << 32
"""Bytes from which on several files have a hash each, which all cores work out, and together the
hash of these; below, that of all that they hold, one after the other."""

KEPT = 1 << 28
"""Bytes from which on what was worked out is kept."""

Told = Callable[[int], object]
"""Is handed the number of bytes that have been read, some at a time."""


@dataclass(frozen=True)
class Sums:
    """What some files hold.

    Attributes:
        sha256: of all tokens as they are stored, or of the files' hashes.
        checks: of each file, by what a change of it is found.
        least, most: of each file, the smallest and the largest token.
    """

    sha256: str
    checks: tuple[str, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]


def sums_of(shards: Sequence[Shard], told: Told) -> Sums:
    """Return what the files of these shards hold; of large ones, what is kept of it, while their
    sizes and times are the same.

    Raises:
        DataError: one cannot be read, or was cut meanwhile.
    """
    if sum(shard.tokens.nbytes for shard in shards) < KEPT:
        return _worked_out(shards, told)
    kept = kept_at("sums", [_state_of(shard) for shard in shards])
    with suppress(NoCache), alone(kept):
        with suppress(OSError, ValueError, TypeError, AttributeError):
            told_before = json.loads(kept.read_bytes())
            return Sums(**{name: _plain(value) for name, value in told_before.items()})
        sums = _worked_out(shards, told)
        with suppress(OSError):  # a disk that is full
            keep(kept, json.dumps(asdict(sums)))
        return sums
    return _worked_out(shards, told)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _state_of(shard: Shard) -> list[Any]:
    assert shard.mapped is not None, "it is of a file"
    file = shard.mapped.file
    try:
        at = file.stat()
    except OSError as error:
        raise unreadable(file, error) from None
    path = os.fsencode(file.resolve()).hex()
    return [path, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, shard.tokens.dtype.str]


def _worked_out(shards: Sequence[Shard], told: Told) -> Sums:
    if len(shards) == 1 or sum(shard.tokens.nbytes for shard in shards) < SEPARATELY:
        digest = hashlib.sha256()
        found = [_read(shard, digest, told, shared=True) for shard in shards]
        sha256 = digest.hexdigest()
    else:
        digests = [hashlib.sha256() for _ in shards]
        reading = (
            partial(_read, shard, digest, told, shared=False)
            for shard, digest in zip(shards, digests, strict=True)
        )
        found = on_threads(len(own_cores()), reading)
        each = "".join(digest.hexdigest() for digest in digests)
        sha256 = hashlib.sha256(each.encode()).hexdigest()
    checks, least, most = zip(*found, strict=True)
    return Sums(sha256, checks, least, most)


def _read(shard: Shard, digest: Any, told: Told, *, shared: bool) -> tuple[str, int, int]:
    """Add what a file holds to a digest; return by what a change of it is found, and the smallest
    and the largest token.

    Args:
        shared: the digest is of other files too, and tells nothing of this one.

    Raises:
        DataError: it cannot be read, or was cut meanwhile.
    """
    tokens, mapped = shard.tokens, shard.mapped
    assert mapped is not None, "it is of a file"
    check, least, most = 0, int(tokens[0]), int(tokens[0])
    buffer = memoryview(bytearray(min(PIECE, tokens.nbytes)))
    with opened(mapped.file) as stream:
        stream.seek(mapped.begin)
        for start in range(0, tokens.nbytes, PIECE):
            piece = buffer[: tokens.nbytes - start]
            if stream.readinto(piece) < len(piece):
                raise mapped.cut()
            digest.update(piece)
            check = zlib.crc32(piece, check) if shared else 0
            some = np.frombuffer(piece, tokens.dtype)
            least, most = min(least, int(some.min())), max(most, int(some.max()))
            told(len(piece))
    return f"{check:08x}" if shared else digest.hexdigest()[:8], least, most
