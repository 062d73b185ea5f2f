"""The records of a run elsewhere: files that grow, where objects cannot, and so in pieces.

A piece is some bytes of a file, an object that is named by where they are and what they hash to:
``records/metrics.jsonl.0-8192.9f86d081884c7d65``. With each checkpoint what is new becomes one
more, together with those before it that are not longer, so that of a file there are a few pieces
at any time, and each byte is sent a few times, however long a run is. Which pieces a file is made
of is said beside each checkpoint, in records.json.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from psdp.checkpoint.layout import PIECES
from psdp.checkpoint.objects import NotWhole, Objects
from psdp.errors import CheckpointError
from psdp.records.folder import CONFIG, METRICS

CHUNK_BYTES = 1024 * 1024

_RECORD = re.compile(rf"{re.escape(CONFIG)}|{re.escape(METRICS)}|events-\d{{6,}}\.jsonl")
_HASH = re.compile(r"[0-9a-f]{64}")


class Piece(NamedTuple):
    """Bytes ``start`` to ``end`` of a file, and what they hash to."""

    start: int
    end: int
    sha256: str

    def name(self, file: str) -> str:
        """Return the name of its object, of a file of this name."""
        return f"{PIECES}/{file}.{self.start}-{self.end}.{self.sha256[:16]}"


Index = dict[str, tuple[Piece, ...]]
"""Of each record, by its name in the run folder, its pieces in order."""


def names_of(index: Index) -> set[str]:
    """Return the names of all objects that the records are made of."""
    return {piece.name(file) for file, pieces in index.items() for piece in pieces}


def index_text(index: Index) -> bytes:
    """Return the content of records.json."""
    return json.dumps(index, indent=1).encode() + b"\n"


def index_in(raw: bytes, called: str) -> Index:
    """Return what records.json says.

    Raises:
        NotWhole: it is damaged, or names what is no record.
    """
    try:
        index = {
            str(file): tuple(Piece(int(start), int(end), str(sha)) for start, end, sha in pieces)
            for file, pieces in json.loads(raw).items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise NotWhole(f"{called} is damaged: {error}") from error
    for file, pieces in index.items():
        ends = [0, *(piece.end for piece in pieces)]
        whole = all(a == piece.start <= piece.end for a, piece in zip(ends, pieces, strict=False))
        hashes = all(_HASH.fullmatch(piece.sha256) for piece in pieces)
        if not (_RECORD.fullmatch(file) and whole and hashes):
            raise NotWhole(f"{called} is damaged: it does not say what {file[:80]!r} is of")
    return index


class Records:
    """Sends the records of a run folder.

    Args:
        known: what is elsewhere of them already, if these files still begin so.
    """

    def __init__(self, objects: Objects, run: Path, known: Index) -> None:
        self._objects = objects
        self._run = run
        self._index = {
            file: tuple(_still_true(run / file, pieces)) for file, pieces in known.items()
        }

    def send(self) -> Index:
        """Send what is new; return of which pieces the records are now.

        Raises:
            CheckpointError: a file cannot be read, or a piece not be sent.
        """
        index: Index = {}
        for path in sorted(self._run.iterdir()):
            if _RECORD.fullmatch(path.name):
                index[path.name] = self._send_file(path, self._index.get(path.name, ()))
        self._index = index
        return index

    def _send_file(self, path: Path, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
        end = path.stat().st_size
        kept = list(pieces)
        if kept and kept[-1].end > end:
            kept.clear()  # it was begun anew
        start = kept[-1].end if kept else 0
        if start == end:
            return tuple(kept)
        while kept and kept[-1].end - kept[-1].start <= end - start:
            start = kept.pop().start
        with path.open("rb") as file:
            piece = Piece(start, end, _hash_of(file, start, end))
            name, size = piece.name(path.name), end - start
            self._objects.write(name, bytes_of(file, start, end), size)
        self._objects.fetch(name, size, piece.sha256)
        return (*kept, piece)


def bytes_of(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Yield bytes ``start`` to ``end`` of a file, or up to its own end, in chunks.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        file.seek(start)
        while chunk := file.read(min(CHUNK_BYTES, end - start)):
            yield chunk
            start += len(chunk)
    except OSError as error:
        raise CheckpointError(f"could not read {file.name}: {error.strerror}") from error


def _hash_of(file: BinaryIO, start: int, end: int) -> str:
    sha256 = hashlib.sha256()
    for chunk in bytes_of(file, start, end):
        sha256.update(chunk)
    return sha256.hexdigest()


def _still_true(path: Path, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the first pieces of a file, as far as it begins so."""
    try:
        with path.open("rb") as file:
            for piece in pieces:
                if _hash_of(file, piece.start, piece.end) != piece.sha256:
                    break
                yield piece
    except FileNotFoundError:
        return


def fetch_records(objects: Objects, index: Index, run: Path) -> None:
    """Write the records into a run folder, but for its settings, which each start writes.

    Raises:
        NotWhole: a piece is missing or damaged; files before it are there.
    """
    for file in sorted(index.keys() - {CONFIG}):
        beside = run / f"{file}.tmp"
        with beside.open("wb") as written:
            for piece in index[file]:
                objects.fetch(piece.name(file), piece.end - piece.start, piece.sha256, written)
        beside.replace(run / file)
