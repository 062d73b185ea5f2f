"""Writing so that it is on the disk when the call returns, and saying why when it cannot be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from psdp.errors import CheckpointError, NumericsError
from psdp.params import Array

_DTYPES = {np.dtype("<f4"): "F32", np.dtype("<f8"): "F64", np.dtype("<i8"): "I64"}
_CHUNK_BYTES = 1024 * 1024

_ADVICE = {
    errno.ENOSPC: "; free some space, or keep fewer with --keep-checkpoints",
    errno.EDQUOT: "; raise the quota, or keep fewer with --keep-checkpoints",
    errno.EFBIG: "; raise the file size limit (ulimit -f) or use more --servers",
}


@contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a CheckpointError that names the file (``what``, where
    the system does not say), the reason and the way out."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"could not write {error.filename or what}: {error.strerror or error}"
            f"{_ADVICE.get(error.errno or 0, '')}; earlier checkpoints are untouched"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` and wait for the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Write ``tensors`` as a safetensors file, wait for the disk, return (bytes, sha256).

    The format is eight bytes of header length, a JSON header, then the raw elements
    (https://github.com/huggingface/safetensors#format). Written here rather than by the library
    because one pass can then hash, write and fsync the caller's own memory, without a copy, and a
    full disk is an OSError with its errno. The same tensors give the same bytes.

    Args:
        metadata: what the header says beside.

    Raises:
        NumericsError: one of them holds NaN or Inf, and the file is not whole.
    """
    names = sorted(tensors)
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        assert tensor.flags.c_contiguous, name
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the elements are aligned in a mapped file
    start_of_file = len(text).to_bytes(8, "little") + text

    sha256 = hashlib.sha256(start_of_file)
    with open(path, "wb") as file:
        file.write(start_of_file)
        for name in names:
            flat = tensors[name].reshape(-1)
            step = _CHUNK_BYTES // flat.itemsize
            for begin in range(0, flat.size, step):
                chunk = flat[begin : begin + step]
                if not np.isfinite(chunk).all():
                    raise NumericsError(f"'{name}' holds NaN or Inf")
                raw = chunk.view(np.uint8).data
                sha256.update(raw)
                file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return len(start_of_file) + end, sha256.hexdigest()
