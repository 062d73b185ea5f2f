"""Bringing copies of checkpoints from elsewhere into a run folder: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from psdp.checkpoint.durable import write_text
from psdp.checkpoint.elsewhere import best_at, copies_at, folder_of, index_at, manifest_at
from psdp.checkpoint.layout import CHECKPOINTS, MANIFEST, CheckpointId
from psdp.checkpoint.manifest import read_manifest
from psdp.checkpoint.objects import GOES_ON_S, Absent, NotWhole, Objects, answered
from psdp.checkpoint.pieces import fetch_records
from psdp.checkpoint.read import verify
from psdp.checkpoint.store import CheckpointStore
from psdp.config import check_url
from psdp.errors import CheckpointError

Tell = Callable[[str], object]


def fetch_newest(
    objects: Objects, store: CheckpointStore, tell: Tell, *, records: bool = False
) -> Path:
    """Bring the newest copy that is whole into a run folder; return the checkpoint's folder there.

    Args:
        tell: is handed a line about each later one that is not whole, and why.
        records: bring the records of the run by then, too.

    Raises:
        CheckpointError: there is none.
    """
    damages: list[str] = []
    try:
        for at in copies_at(objects):
            try:
                folder = fetch(objects, at, store, tell if records else None)
            except NotWhole as error:
                damages.append(str(error))
                continue
            for damage in damages:
                tell(f"passed over a copy that is not whole: {damage}")
            return folder
    except Absent as error:
        damages.append(str(error))
    raise CheckpointError(
        f"no checkpoint at {objects.url}: {'; '.join(damages) or 'there is none'}; expected what "
        "was given to --checkpoint-to"
    )


def fetch_one(url: str, folder: Path, tell: Tell, *, best: bool) -> Path:
    """Bring the newest copy at a URL that is whole, or the best, into a folder; return the
    checkpoint's folder there.

    Raises:
        ConfigError: the URL is none.
        CheckpointError: there is no such copy, or it is not whole.
    """
    check_url(url, "--checkpoint")
    objects = answered(url, lambda: Objects(url))
    store = CheckpointStore(folder, keep=0)

    def bring() -> Path:
        if not best:
            return fetch_newest(objects, store, tell)
        at = best_at(objects)
        if at is None:
            raise CheckpointError(f"{url} has no best checkpoint; drop --best to take the latest")
        return fetch(objects, at, store)

    return answered(url, bring, lambda: objects.moved_bytes, GOES_ON_S)


def fetch_best(objects: Objects, store: CheckpointStore, tell: Tell) -> None:
    """Bring the best copy into a run folder, and mark it there; say so if it is not whole."""
    at = best_at(objects)
    if at is None:
        return
    try:
        fetch(objects, at, store)
    except NotWhole as error:
        tell(f"the best checkpoint is not whole: {error}")
        return
    store.mark_best(at)


def fetch(
    objects: Objects, at: CheckpointId, store: CheckpointStore, tell: Tell | None = None
) -> Path:
    """Bring a copy into a run folder, unless it is there; return the checkpoint's folder.

    Args:
        tell: the records of the run by then are wanted, too; it is handed a line if these are not
            whole.

    Raises:
        NotWhole: the copy is not.
    """
    try:
        raw, manifest = manifest_at(objects, at)
    except Absent:
        called = objects.called(folder_of(at))
        raise NotWhole(f"{called} was not copied to its end") from None
    here = store.run / CHECKPOINTS / at.name
    with suppress(CheckpointError):
        verify(own := read_manifest(here))
        if (own.folder / MANIFEST).read_bytes() == raw:
            return here

    def fill(folder: Path) -> None:
        for file in manifest.all_files:
            with (folder / file.name).open("wb") as written:
                name = f"{folder_of(at)}/{file.name}"
                objects.fetch(name, file.bytes, file.sha256, written)
                written.flush()
                os.fsync(written.fileno())
        write_text(folder / MANIFEST, raw.decode())
        if tell is not None:
            try:
                fetch_records(objects, index_at(objects, at), store.run)
            except NotWhole as error:
                tell(f"the records before {at.name} are not whole: {error}")

    return store.take_in(at, fill)
