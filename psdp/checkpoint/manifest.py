"""checkpoint.json: what a checkpoint consists of, sealed by a digest of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint.layout import MANIFEST, shard_name
from psdp.errors import CheckpointError

FORMAT = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardFile:
    """One server's file: its name in the checkpoint's folder, its size, its hash in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A verified ``checkpoint.json``; ``files`` are in the order of the servers."""

    folder: Path
    step: int
    state: dict[str, Any]
    files: tuple[ShardFile, ...]


def manifest_text(step: int, state: Mapping[str, Any], files: Sequence[ShardFile]) -> str:
    """Return the content of ``checkpoint.json``. ``state`` holds what JSON holds, with NaN and
    Infinity as Python spells them; tuples come back as lists and keys as strings."""
    body = {
        "format": FORMAT,
        "step": step,
        "state": dict(state),
        "files": [asdict(file) for file in files],
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
        raw = path.read_bytes()
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
    return Manifest(folder, step, state, shard_files(body.get("files"), path))


def shard_files(entries: Any, path: Path | str) -> tuple[ShardFile, ...]:
    """Return ``[{name, bytes, sha256}, ...]`` as one file for each of K servers, in their order.

    Raises:
        CheckpointError: an entry is not of that form, or they are not exactly shard 0 to K-1 of
            K; the text names ``path``.
    """
    if not isinstance(entries, list | tuple) or not entries:
        raise CheckpointError(f"{path}: expected a list of shard files, got {entries!r}")
    files = []
    for entry in entries:
        good = (
            isinstance(entry, dict)
            and set(entry) == {"name", "bytes", "sha256"}
            and isinstance(entry["name"], str)
            and type(entry["bytes"]) is int
            and isinstance(entry["sha256"], str)
            and _SHA256.fullmatch(entry["sha256"])
        )
        if not good:
            raise CheckpointError(
                f"{path}: expected a shard file as name, bytes and sha256, got {entry!r}"
            )
        files.append(ShardFile(**entry))
    expected = [shard_name(shard, len(files)) for shard in range(len(files))]
    by_name = {file.name: file for file in files}
    if sorted(by_name) != sorted(expected):
        raise CheckpointError(
            f"{path}: expected the shard files {expected}, got {[file.name for file in files]}"
        )
    return tuple(by_name[name] for name in expected)


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
