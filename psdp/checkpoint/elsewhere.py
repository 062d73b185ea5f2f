"""Copies of a run's checkpoints at a URL, which is laid out as the run folder is.

    URL/
        checkpoints/
            step-000100-v000250/
                shard-00-of-02.safetensors  as in the run folder
                shard-01-of-02.safetensors
                records.json                of which pieces the records were by then
                checkpoint.json             as in the run folder, and the last to be written
            best.json
        records/                            pieces of metrics.jsonl, ...
        summary.json                        of the last start that has come to an end
        lock.json                           of the job that copies here

A copy is complete or absent: what has no manifest is none. All else of it has been read back then,
and has the hashes that it should.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from psdp.checkpoint.layout import (
    BEST,
    CHECKPOINTS,
    MANIFEST,
    PIECES,
    RECORDS,
    CheckpointId,
    complete_checkpoints,
)
from psdp.checkpoint.manifest import CheckpointFile, Manifest, manifest_in
from psdp.checkpoint.objects import Absent, NotWhole, Objects
from psdp.checkpoint.pieces import (
    Index,
    Records,
    bytes_of,
    index_in,
    index_text,
    names_of,
)
from psdp.checkpoint.read import best_in, best_text, read_best
from psdp.errors import CheckpointError
from psdp.records.folder import SUMMARY
from psdp.records.lock import LOCK

PROBE = ".psdp-probe-"


def probe(objects: Objects) -> None:
    """See that objects can be written, read and removed at a URL.

    Raises:
        CheckpointError: they cannot.
    """
    name = PROBE + secrets.token_hex(8)
    put(objects, name, name.encode())
    objects.remove(name)


def put(objects: Objects, name: str, content: bytes) -> None:
    """Write a small object, and see that it is there.

    Raises:
        CheckpointError: it could not be written, or is not what was.
    """
    objects.write(name, [content])
    if objects.content(name) != content:
        raise NotWhole(f"{objects.called(name)} is not what was written there")


def copies_at(objects: Objects) -> list[CheckpointId]:
    """Return which checkpoints there is something of at a URL, the latest first.

    Raises:
        Absent: none was ever copied there.
    """
    named = map(CheckpointId.of, objects.names(CHECKPOINTS))
    return sorted((at for at in named if at is not None), reverse=True)


def manifest_at(objects: Objects, at: CheckpointId) -> tuple[bytes, Manifest]:
    """Return the manifest of a copy, as it is and as it says.

    Raises:
        NotWhole: the copy is not complete, or that is damaged.
    """
    name = f"{folder_of(at)}/{MANIFEST}"
    raw = objects.content(name)
    try:
        return raw, manifest_in(raw, Path(at.name), objects.called(name))
    except CheckpointError as error:
        raise NotWhole(str(error)) from error


def newest_at(objects: Objects) -> tuple[CheckpointId, Manifest]:
    """Return the newest copy, by its manifest alone.

    Raises:
        Absent: there is none.
    """
    for at in copies_at(objects):
        with suppress(NotWhole):
            return at, manifest_at(objects, at)[1]
    raise Absent(f"{objects.called(CHECKPOINTS)} holds none that was copied to its end")


def index_at(objects: Objects, at: CheckpointId) -> Index:
    """Return of which pieces the records were at a copy.

    Raises:
        NotWhole: it does not say.
    """
    name = f"{folder_of(at)}/{RECORDS}"
    return index_in(objects.content(name), objects.called(name))


def best_at(objects: Objects) -> CheckpointId | None:
    """Return which copy is the best, None if none is known as that."""
    name = f"{CHECKPOINTS}/{BEST}"
    try:
        raw = objects.content(name)
    except Absent:
        return None
    with suppress(CheckpointError):
        return best_in(raw, objects.called(name))
    return None


def folder_of(at: CheckpointId) -> str:
    """Return the name of the folder of a copy."""
    return f"{CHECKPOINTS}/{at.name}"


class Overtaken(CheckpointError):
    """Another job copies to the same URL by now."""


@dataclass(frozen=True)
class Copied:
    """A checkpoint is complete elsewhere: its size, and how long that took."""

    at: CheckpointId
    bytes: int
    seconds: float


class Elsewhere:
    """Copies the checkpoints of a run folder to a URL, on one thread, which may be another than
    that which makes this.

    Args:
        keep: how many of the latest copies stay beside the best (0: all).
    """

    def __init__(
        self,
        objects: Objects,
        run: Path,
        keep: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = objects.url
        self._objects = objects
        self._run = run
        self._keep = keep
        self._now = now
        self._lock: bytes | None = None
        self._pieces: dict[CheckpointId, set[str]] = {}
        """Of the copies that are complete, as far as they are known, those of their records."""
        self._begun: set[CheckpointId] = set()
        """Copies that are not complete."""
        self._best: CheckpointId | None = None
        self._records: Records | None = None
        self._summary: bytes | None = None

    @property
    def moved_bytes(self) -> int:
        """So far, to and fro; grows while a copy is on its way."""
        return self._objects.moved_bytes

    def update(self) -> Iterator[Copied]:
        """Have the URL hold what the run folder does: its latest checkpoint, and its best. Yield
        what has been copied.

        Raises:
            CheckpointError: that failed, or another job copies there now; what is there is whole.
        """
        if self._records is None:
            self._records = self._claim()
        root = self._run / CHECKPOINTS
        for choose in (_latest, read_best):
            at = choose(root)
            if at is not None and at not in self._pieces and (copied := self._copy(at)):
                yield copied
        best = read_best(root)
        if best != self._best and best in self._pieces:
            put(self._objects, f"{CHECKPOINTS}/{BEST}", best_text(best).encode())
            self._best = best
        self._prune()
        self._send_summary()

    def _claim(self) -> Records:
        """Say that this job copies here from now on; see what is there."""
        self._lock = (self._run / LOCK).read_bytes()
        put(self._objects, LOCK, self._lock)
        latest: Index = {}
        with suppress(Absent):
            for at in copies_at(self._objects):
                self._see(at)
                if self._pieces and not latest:
                    with suppress(NotWhole):
                        latest = index_at(self._objects, at)
                    if not self._keep:
                        break  # nobody needs to know of the others
        self._best = best_at(self._objects)
        if self._keep:
            self._remove_strays()
        return Records(self._objects, self._run, latest)

    def _remove_strays(self) -> None:
        """Remove pieces of copies that were not completed."""
        needed = set().union(*self._pieces.values())
        with suppress(Absent):
            for piece in self._objects.names(PIECES):
                if f"{PIECES}/{piece}" not in needed:
                    self._objects.remove(f"{PIECES}/{piece}")

    def _see(self, at: CheckpointId) -> None:
        """Take note of a copy that is there, or of what there is of it."""
        try:
            manifest_at(self._objects, at)
        except NotWhole:
            self._begun.add(at)
            return
        self._begun.discard(at)
        self._pieces[at] = set()
        with suppress(NotWhole):
            self._pieces[at] = names_of(index_at(self._objects, at))

    def _copy(self, at: CheckpointId) -> Copied | None:
        """Copy a checkpoint; return None if it has been let go of meanwhile, or is there."""
        folder, begin_s = folder_of(at), self._now()
        with ExitStack() as opened:
            try:
                # Open, they can be read to their end, whoever lets go of them.
                source = self._run / folder
                raw = (source / MANIFEST).read_bytes()
                manifest = manifest_in(raw, source, source / MANIFEST)
                files = [
                    opened.enter_context((source / file.name).open("rb"))
                    for file in manifest.all_files
                ]
            except FileNotFoundError:
                return None
            if self._is_there(at, raw):
                self._see(at)
                return None
            self._begun.add(at)
            for expected, file in zip(manifest.all_files, files, strict=True):
                self._send(folder, expected, file)
        assert self._records is not None
        index = self._records.send()
        put(self._objects, f"{folder}/{RECORDS}", index_text(index))
        self._check()
        put(self._objects, f"{folder}/{MANIFEST}", raw)
        self._pieces[at] = names_of(index)
        self._begun.discard(at)
        size = sum(file.bytes for file in manifest.all_files)
        return Copied(at, size, self._now() - begin_s)

    def _send(self, folder: str, expected: CheckpointFile, file: BinaryIO) -> None:
        """Send a file, and see that it is there as the manifest says."""
        name, got = f"{folder}/{expected.name}", hashlib.sha256()
        chunks = _seen(bytes_of(file, 0, expected.bytes), got.update)
        self._objects.write(name, chunks, expected.bytes)
        if got.hexdigest() != expected.sha256:
            raise CheckpointError(
                f"{file.name} is damaged: expected sha256 {expected.sha256}, got {got.hexdigest()}"
            )
        self._objects.fetch(name, expected.bytes, expected.sha256)

    def _send_summary(self) -> None:
        """Send the summary of a run that is over."""
        try:
            summary = (self._run / SUMMARY).read_bytes()
        except FileNotFoundError:
            return
        if summary != self._summary:
            self._check()
            put(self._objects, SUMMARY, summary)
            self._summary = summary

    def _is_there(self, at: CheckpointId, raw: bytes) -> bool:
        """Say whether a copy with this manifest is there. One with another is damaged, or of a run
        that went another way, and must not seem complete while it is written over."""
        name = f"{folder_of(at)}/{MANIFEST}"
        try:
            there = self._objects.content(name)
        except Absent:
            return False
        if there != raw:
            self._objects.remove(name)
        return there == raw

    def _check(self) -> None:
        try:
            holder = self._objects.content(LOCK)
        except Absent:
            holder = b""
        if holder != self._lock:
            raise Overtaken(
                f"another job copies to {self.url} now; nothing more is copied there from here"
            )

    def _prune(self) -> None:
        """Remove all copies but the latest ``keep`` and the best, what is left of others, and the
        pieces that none of the rest needs."""
        gone: set[CheckpointId] = set(self._begun)
        if self._keep:
            gone |= self._pieces.keys() - {*sorted(self._pieces)[-self._keep :], self._best}
        if not gone:
            return
        self._check()
        for at in sorted(gone):
            self._objects.remove(f"{folder_of(at)}/{MANIFEST}")  # first: it is no copy then
            self._begun.add(at)
            pieces = self._pieces.pop(at, set())
            self._objects.remove_folder(folder_of(at))
            self._begun.discard(at)
            for name in sorted(pieces.difference(*self._pieces.values())):
                self._objects.remove(name)


def _latest(root: Path) -> CheckpointId | None:
    return next(reversed(complete_checkpoints(root)), None)


def _seen(chunks: Iterable[bytes], see: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        see(chunk)
        yield chunk
