"""checkpoint.json: what a checkpoint consists of, sealed by a digest of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psdp.checkpoint.layout import MANIFEST, shard_name, worker_name
from psdp.checkpoint.opening import open_regular
from psdp.errors import CheckpointError

FORMAT = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class CheckpointFile:
    """One file: its name in the checkpoint's folder, its size, its hash in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A verified ``checkpoint.json``.

    Attributes:
        files: one for each server, in their order.
        digest: a hash of all that it says.
        workers: by worker, the file of what it has for itself; None if it could not be kept. Nobody
            is named where nothing was to be kept.
        attached: other files that go with the weights.
    """

    folder: Path
    step: int
    state: dict[str, Any]
    files: tuple[CheckpointFile, ...]
    digest: str
    workers: Mapping[int, CheckpointFile | None] = field(default_factory=dict)
    attached: tuple[CheckpointFile, ...] = ()

    @property
    def all_files(self) -> tuple[CheckpointFile, ...]:
        """All that the checkpoint consists of beside the manifest."""
        own = (file for file in self.workers.values() if file is not None)
        return *self.files, *own, *self.attached


def manifest_text(
    step: int,
    state: Mapping[str, Any],
    files: Sequence[CheckpointFile],
    workers: Mapping[int, CheckpointFile | None] | None = None,
    attached: Sequence[CheckpointFile] = (),
) -> str:
    """Return the content of ``checkpoint.json``. ``state`` holds what JSON holds, with NaN and
    Infinity as Python spells them; tuples come back as lists and keys as strings."""
    of_workers = sorted((workers or {}).items())
    body = {
        "format": FORMAT,
        "step": step,
        "state": dict(state),
        "files": [asdict(file) for file in files],
        "workers": {worker: None if of is None else asdict(of) for worker, of in of_workers},
        **({"attached": [asdict(file) for file in attached]} if attached else {}),
    }
    body = json.loads(json.dumps(body))  # keys as a reader will see them, before they are sorted
    return json.dumps(body | {"digest": _digest(body)}, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the checkpoint in ``folder``, verified; the shards are not read.

    Raises:
        CheckpointError: ``checkpoint.json`` is missing, not JSON, of another format, edited, or
            does not describe a whole checkpoint.
    """
    path = folder / MANIFEST
    try:
        with open_regular(path) as file:
            raw = file.read()
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error.strerror}") from error
    return manifest_in(raw, folder, path)


def manifest_in(raw: bytes, folder: Path, path: Path | str) -> Manifest:
    """Return the manifest of the checkpoint in ``folder`` from the content of ``checkpoint.json``.

    Raises:
        CheckpointError: as of :func:`read_manifest`; the text names ``path``.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: expected JSON, got: {error}") from error
    if not isinstance(body, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(body).__name__}")
    if body.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT}, got {body.get('format')!r}; it was not "
            f"written by this version of psdp"
        )
    stated = body.pop("digest", None)
    if stated != _digest(body):
        raise CheckpointError(
            f"{path} was edited or damaged: its content has the digest {_digest(body)}, but it "
            f"states {stated!r}"
        )
    step, state = body.get("step"), body.get("state")
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path}: expected a step of at least 0, got {step!r}")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected the state to be an object, got {state!r}")
    files = shard_files(body.get("files"), path)
    # Before psdp 0.2 workers kept nothing.
    workers = worker_files(body.get("workers", {}), path)
    attached = attached_files(body.get("attached", []), path)
    return Manifest(folder, step, state, files, stated, workers, attached)


def shard_files(entries: Any, path: Path | str) -> tuple[CheckpointFile, ...]:
    """Return ``[{name, bytes, sha256}, ...]`` as one file for each of K servers, in their order.

    Raises:
        CheckpointError: an entry is not of that form, or they are not exactly shard 0 to K-1 of
            K; the text names ``path``.
    """
    if not isinstance(entries, list | tuple) or not entries:
        raise CheckpointError(f"{path}: expected a list of shard files, got {entries!r}")
    files = [_file(entry, path) for entry in entries]
    expected = [shard_name(shard, len(files)) for shard in range(len(files))]
    by_name = {file.name: file for file in files}
    if sorted(by_name) != sorted(expected):
        raise CheckpointError(
            f"{path}: expected the shard files {expected}, got {[file.name for file in files]}"
        )
    return tuple(by_name[name] for name in expected)


def worker_files(entries: Any, path: Path | str) -> dict[int, CheckpointFile | None]:
    """Return ``{worker: {name, bytes, sha256} or None, ...}``, whose keys JSON makes text, as one
    file for each of these workers.

    Raises:
        CheckpointError: it is not of that form, or a file is another worker's; the text names
            ``path``.
    """
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{path}: expected the files of workers, got {entries!r}")
    files: dict[int, CheckpointFile | None] = {}
    for number, entry in entries.items():
        if not str(number).isdecimal():
            raise CheckpointError(f"{path}: expected the number of a worker, got {number!r}")
        worker = int(number)
        file = files[worker] = None if entry is None else _file(entry, path)
        if file is not None and file.name != worker_name(worker):
            raise CheckpointError(
                f"{path}: expected {worker_name(worker)} of worker {worker}, got {file.name}"
            )
    return files


def attached_files(entries: Any, path: Path | str) -> tuple[CheckpointFile, ...]:
    """Return ``[{name, bytes, sha256}, ...]`` as files.

    Raises:
        CheckpointError: an entry is not of that form, or its name is not plain; the text names
            ``path``.
    """
    if not isinstance(entries, list):
        raise CheckpointError(f"{path}: expected a list of attached files, got {entries!r}")
    files = tuple(_file(entry, path) for entry in entries)
    for file in files:
        if not _PLAIN.fullmatch(file.name) or file.name == MANIFEST:
            raise CheckpointError(f"{path}: expected a plain file name, got {file.name!r}")
    return files


def _file(entry: Any, path: Path | str) -> CheckpointFile:
    good = (
        isinstance(entry, dict)
        and set(entry) == {"name", "bytes", "sha256"}
        and isinstance(entry["name"], str)
        and type(entry["bytes"]) is int
        and isinstance(entry["sha256"], str)
        and _SHA256.fullmatch(entry["sha256"])
    )
    if not good:
        raise CheckpointError(f"{path}: expected a file as name, bytes and sha256, got {entry!r}")
    return CheckpointFile(**entry)


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
