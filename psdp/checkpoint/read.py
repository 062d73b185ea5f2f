"""Finding a checkpoint and reading it back: sizes and hashes first, then the tensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from psdp.checkpoint.average import tensor_of
from psdp.checkpoint.layout import (
    AVERAGE,
    BEST,
    CHECKPOINTS,
    MANIFEST,
    WEIGHTS,
    CheckpointId,
    checkpoint_folders,
    complete_checkpoints,
)
from psdp.checkpoint.manifest import CheckpointFile, Manifest, read_manifest
from psdp.checkpoint.opening import open_regular
from psdp.errors import CheckpointError
from psdp.params import Array

OPTIMIZER = "optimizer."


def find_checkpoint(path: Path, tell: Callable[[str], object] = lambda _: None) -> Path:
    """Return the folder of a checkpoint: ``path`` itself, or of the run folder ``path`` the latest
    one that is whole, by the hashes of all its files.

    Args:
        tell: is handed a line about each later one that is not, and why.

    Raises:
        CheckpointError: neither; the text says what is missing.
    """
    if is_checkpoint(path):
        return path
    root = path / CHECKPOINTS
    damages: list[str] = []
    for folder in reversed(checkpoint_folders(root).values()):
        try:
            verify(read_manifest(folder))
        except CheckpointError as error:
            if os.path.lexists(folder):  # a job that is running may have let go of it meanwhile
                damages.append(str(error))
            continue
        for damage in damages:
            tell(f"passed over a checkpoint that is not whole: {damage}")
        return folder
    if not path.exists():
        missing = "there is no such folder"
    elif not path.is_dir():
        missing = "it is not a folder"
    elif not root.is_dir():
        missing = f"it holds neither {MANIFEST} nor a folder '{CHECKPOINTS}'"
    elif damages:
        missing = f"none in {root} is whole: {'; '.join(damages)}"
    else:
        missing = f"{root} holds none (a folder step-NNNNNN-vNNNNNN with {MANIFEST} in it)"
    raise CheckpointError(
        f"no checkpoint at {path}: {missing}; expected a run folder or the folder of a checkpoint"
    )


def is_checkpoint(path: Path) -> bool:
    """Say whether this is the folder of a complete checkpoint."""
    return (path / MANIFEST).is_file()


def latest_of(run: Path) -> Path | None:
    """Return the folder of the latest complete checkpoint of a run, None if there is none; its
    files may be damaged."""
    return next(reversed(complete_checkpoints(run / CHECKPOINTS).values()), None)


def read_best(root: Path) -> CheckpointId | None:
    """Return which checkpoint of the folder ``checkpoints`` of a run is the best, None if none was
    marked.

    Raises:
        CheckpointError: ``best.json`` is unreadable or damaged.
    """
    path = root / BEST
    try:
        with open_regular(path) as file:
            raw = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error.strerror}") from error
    return best_in(raw, path)


def best_text(at: CheckpointId) -> str:
    """Return the content of ``best.json``."""
    return json.dumps({"checkpoint": at.name}) + "\n"


def best_in(raw: bytes, path: Path | str) -> CheckpointId:
    """Return which checkpoint is the best, from the content of ``best.json``.

    Raises:
        CheckpointError: it is damaged; the text names ``path``.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: expected JSON, got: {error}") from error
    match content:
        case {"checkpoint": str(name)} if (at := CheckpointId.of(name)) is not None:
            return at
        case {"step": int(step)} if type(step) is int:  # as folders were named by steps alone
            return CheckpointId(step)
    raise CheckpointError(
        f'{path} is damaged: expected {{"checkpoint": "step-..."}}, got {content!r}'
    )


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, None if it was taken out of one."""
    for folder in (checkpoint, checkpoint.resolve()):  # as it was given, where that tells
        if folder.parent.name == CHECKPOINTS:
            return folder.parent.parent
    return None


def verify(manifest: Manifest) -> None:
    """See that all files of a checkpoint are there, and those that were written.

    Raises:
        CheckpointError: one is not.
    """
    for file in manifest.all_files:
        _verify(manifest, file)


def read_shard(manifest: Manifest, shard: int) -> dict[str, Array]:
    """Return the tensors of server ``shard`` by name, verified before they are parsed.

    Raises:
        CheckpointError: the file is missing, or is not the one that was written.
    """
    return _parse(_verify_shard(manifest, shard))


def read_worker(manifest: Manifest, worker: int) -> dict[str, Array] | None:
    """Return the tensors of what a worker has for itself by name, verified before they are parsed;
    None if the checkpoint has none of it.

    Raises:
        CheckpointError: the file is missing, or is not the one that was written.
    """
    file = manifest.workers.get(worker)
    return None if file is None else _parse(_verify(manifest, file))


def read_attached(manifest: Manifest, name: str) -> str:
    """Return the text of a file that goes with the weights, verified.

    Raises:
        CheckpointError: there is none of this name, or it is not the one that was written.
    """
    for file in manifest.attached:
        if file.name == name:
            return _verify(manifest, file).read_text("utf-8")
    raise CheckpointError(f"{manifest.folder} has no {name}; was it written by a psdp run?")


def read_span(manifest: Manifest, span: range, *, only: str | None = None) -> dict[str, Array]:
    """Return the tensors of the shard that holds ``span`` of the flat vector, whatever spans those
    that were saved held: vectors from all that hold some of it, everything else, which is the same
    in all of them, from the first of these. Other files are not read.

    Args:
        only: the tensor of this name alone is asked for.

    Raises:
        CheckpointError: a file is missing, or is not the one that was written, or there is none of
            the end of the span.
    """
    found: list[dict[str, Array]] = []
    start = 0
    for shard, size in enumerate(_sizes(manifest)):
        within = slice(max(span.start - start, 0), min(span.stop - start, size))
        if within.start < within.stop or (not span and within.start == within.stop):
            found.append(_parse(_verify_shard(manifest, shard), only=only, within=within))
        start += size
    if span.stop > start or not found:
        raise CheckpointError(
            f"{manifest.folder} holds {start} parameters, asked for those up to {span.stop}"
        )
    vectors = [name for name in found[0] if _is_vector(name)]
    return found[0] | {name: np.concatenate([part[name] for part in found]) for name in vectors}


def _is_vector(name: str) -> bool:
    """Say whether a tensor has an element for each parameter of its shard."""
    return name in (WEIGHTS, AVERAGE) or name.startswith(OPTIMIZER)


def _sizes(manifest: Manifest) -> list[int]:
    """Return how many parameters each server had, as the files say before they are verified."""
    sizes = []
    for file in manifest.files:
        path = manifest.folder / file.name
        try:
            with open_regular(path), safe_open(path, framework="np") as tensors:
                (size,) = tensors.get_slice(WEIGHTS).get_shape()
        except (SafetensorError, OSError, ValueError) as error:
            _verify(manifest, file)  # which may know more of it
            raise _unexpected(path, error) from error
        sizes.append(size)
    return sizes


def _unexpected(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not the safetensors file expected: {error}")


def read_weights(manifest: Manifest, *, raw: bool = False) -> Array:
    """Return the weights (P,) of all shards, one after the other: their average, where there is
    one, or if ``raw`` those that the last update has made.

    Raises:
        CheckpointError: a file is missing, or is not the one that was written.
    """
    paths = [_verify(manifest, file) for file in manifest.files]
    name = tensor_of(manifest, raw=raw)
    shards = [_parse(path, only=name)[name] for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if shard.ndim != 1 or shard.dtype != shards[0].dtype:
            raise CheckpointError(
                f"{path}: expected '{name}' to be a vector of {shards[0].dtype}, got "
                f"{shard.dtype} of shape {shard.shape}"
            )
    return np.concatenate(shards)


def read_named(manifest: Manifest, *, raw: bool = False) -> dict[str, Array]:
    """Return the weights by the names of the parameters, each in its shape; ``raw`` is that of
    :func:`read_weights`.

    Raises:
        CheckpointError: a file is missing, or is not the one that was written; or the manifest does
            not say which parameters they are.
    """
    flat = read_weights(manifest, raw=raw)
    try:
        named = {
            entry["name"]: flat[entry["offset"] :][: prod(entry["shape"])].reshape(entry["shape"])
            for entry in manifest.state["layout"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{manifest.folder} does not say which parameters it holds; was it written by a psdp "
            "run?"
        ) from error
    return named


def _verify_shard(manifest: Manifest, shard: int) -> Path:
    if not 0 <= shard < len(manifest.files):
        raise CheckpointError(
            f"{manifest.folder} holds the shards 0 to {len(manifest.files) - 1}, asked for "
            f"{shard}; it was written with --servers {len(manifest.files)}"
        )
    return _verify(manifest, manifest.files[shard])


def _verify(manifest: Manifest, expected: CheckpointFile) -> Path:
    path = manifest.folder / expected.name
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.bytes:
                raise CheckpointError(
                    f"{path} is damaged: expected {expected.bytes} bytes, got {size}"
                )
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error.strerror}") from error
    if sha256 != expected.sha256:
        raise CheckpointError(f"{path} is damaged: expected sha256 {expected.sha256}, got {sha256}")
    return path


def _parse(path: Path, *, only: str | None = None, within: slice | None = None) -> dict[str, Array]:
    """Return the tensors of a safetensors file, or the one named ``only``; of those with an element
    for each parameter these elements."""
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys()) if only is None else [only]
            tensors = {
                name: file.get_tensor(name)
                if within is None or not _is_vector(name)
                else file.get_slice(name)[within]
                for name in names
            }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unexpected(path, error) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float32, np.float64, np.int64):
            raise CheckpointError(
                f"{path}: expected '{name}' to be float32, float64 or int64, got {tensor.dtype}"
            )
    return tensors
