"""What can be begun with: a checkpoint of psdp's, or a folder of Hugging Face's; and the step that
reads the weights there."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psdp.checkpoint import Manifest, read_manifest, read_span, tensor_of
from psdp.config import ModelConfig
from psdp.data.subwords import DEFINITION
from psdp.data.tokenizer import ByteTokenizer
from psdp.errors import CheckpointError
from psdp.generation import identity_of
from psdp.huggingface import Folder, is_folder_of_a_model, read_folder
from psdp.job import Job
from psdp.params import Array, ParamTable
from psdp.startup.step import Nothing, Step

OF_THE_NEW_RUN = frozenset({"dropout", "init", "zero_init", "preset"})
"""Settings of a model that say nothing of its weights."""

_POSITIONS = "embedding.positions"


class Origin(ABC):
    """Where weights come from.

    Attributes:
        path: of its folder.
        vocab_size: V, of its tokenizer.
    """

    path: Path
    vocab_size: int

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that a run has with these weights."""

    @abstractmethod
    def weights(self, table: ParamTable, span: range, dtype: npt.DTypeLike) -> Array:
        """Return the weights ``span`` of the flat vector of a table of that shape, or of one that
        sees fewer learned positions; no more is read than that needs.

        Raises:
            CheckpointError: they cannot be read, or have another shape.
        """


class Checkpoint(Origin):
    """A checkpoint of a run.

    Args:
        raw: whether the weights themselves are taken where there is an average of them.
    """

    def __init__(self, manifest: Manifest, *, raw: bool = False) -> None:
        """
        Raises:
            CheckpointError: it is none of a model of language.
        """
        self.path, self._manifest = manifest.folder, manifest
        self._config, self._tokenizer = identity_of(manifest)
        self.vocab_size = self._tokenizer.vocab_size
        self._tensor = tensor_of(manifest, raw=raw)

    def settings(self) -> dict[str, Any]:
        flat = self._config.flat()
        shape = {f.name: flat[f.name] for f in fields(ModelConfig) if f.name not in OF_THE_NEW_RUN}
        return shape | self.tokenizer_settings()

    def tokenizer_settings(self) -> dict[str, Any]:
        """Return the settings by which a corpus is read with its tokenizer."""
        match self._tokenizer.to_json():
            case {"kind": "byte"}:
                return {"tokenizer": "byte"}
            case {"kind": "ids"}:  # of whatever tokenizer the tokens were
                return {"vocab_size": self.vocab_size}
            case {"kind": "char"} as told:
                return {"tokenizer": json.dumps(told, ensure_ascii=False)}
        return {"tokenizer": str(self.path), "vocab_size": self.vocab_size}

    def weights(self, table: ParamTable, span: range, dtype: npt.DTypeLike) -> Array:
        flat: Array = np.empty(len(span), dtype)
        for into, there in self._runs(table, span):
            read = read_span(self._manifest, there, only=self._tensor)
            flat[into.start - span.start : into.stop - span.start] = read[self._tensor]
        return flat

    def _runs(self, table: ParamTable, span: range) -> Iterator[tuple[range, range]]:
        """Yield spans that cover ``span``, and where they lie in the checkpoint: each as long as
        can be, since files are verified for each."""
        held = {entry["name"]: entry for entry in self._manifest.state["layout"]}
        into = there = range(0)
        for spec in table.specs:
            entry = held.get(spec.name)
            if entry is None or not _fits(spec.name, tuple(entry["shape"]), spec.shape):
                raise CheckpointError(
                    f"{self.path} holds no {spec.name} of shape {spec.shape}, but "
                    f"{entry and tuple(entry['shape'])}"
                )
            start = table.offsets[spec.name]
            inside = range(max(start, span.start), min(start + spec.size, span.stop))
            if not inside:
                continue
            begin = entry["offset"] + inside.start - start
            if (into.stop, there.stop) != (inside.start, begin):
                if into:
                    yield into, there
                into, there = range(inside.start, inside.start), range(begin, begin)
            into = range(into.start, inside.stop)
            there = range(there.start, begin + len(inside))
        if into:
            yield into, there


def _fits(name: str, held: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Say whether a parameter of one shape can be taken for one of another."""
    if name == _POSITIONS and math.prod(held) >= math.prod(needed):
        return held[1:] == needed[1:]
    return held == needed


class Elsewhere(Origin):
    """A folder of Hugging Face's."""

    def __init__(self, folder: Folder) -> None:
        self.path, self.vocab_size = folder.path, folder.vocab_size
        self._folder = folder

    def settings(self) -> dict[str, Any]:
        shape = dict(self._folder.settings)
        if any((self.path / name).exists() for name in (DEFINITION, "merges.txt")):
            return shape | {"tokenizer": str(self.path), "vocab_size": self.vocab_size}
        if self.vocab_size == ByteTokenizer.vocab_size:
            return shape  # which may well be bytes
        return shape | {"vocab_size": self.vocab_size}

    def weights(self, table: ParamTable, span: range, dtype: npt.DTypeLike) -> Array:
        return self._folder.weights(table, span, dtype)


def origin_at(path: Path, *, raw: bool = False) -> Origin:
    """Return what lies in a folder; ``raw`` is that of :class:`Checkpoint`.

    Raises:
        CheckpointError: it is no checkpoint that this version of psdp reads, and no folder of a
            model that psdp can have.
    """
    if is_folder_of_a_model(path):
        return Elsewhere(read_folder(path))
    return Checkpoint(read_manifest(path), raw=raw)


@dataclass(frozen=True)
class ReadWeights(Step[Array | None, Nothing, None]):
    """Read the weights that a rank's shard begins with, where a run begins with those of another:
    each rank that holds a shard reads its part."""

    job: Job
    rank: int
    manifest: Manifest | None

    facts = Nothing

    def concerns(self, rank: int) -> bool:
        return rank in self.job.holding

    def act(self) -> tuple[Array | None, Nothing]:
        run, job = self.job.config.run, self.job
        named = run.init_from
        if named is None or self.manifest is not None or not self.concerns(self.rank):
            return None, Nothing()
        origin = origin_at(Path(named), raw=run.raw_weights)
        vocab_size = job.task.identity()["vocab_size"]
        if origin.vocab_size != vocab_size:
            raise CheckpointError(
                f"--init-from {named}: that model has a vocabulary of {origin.vocab_size:,}, the "
                f"corpus one of {vocab_size:,}; give the corpus as text, or as tokens of that "
                "model's tokenizer (--tokenizer)"
            )
        span = job.shards[job.shard_of(self.rank)]
        return origin.weights(job.table, span, run.dtype), Nothing()

    def agree(self, facts: Mapping[int, Nothing]) -> None:
        pass
