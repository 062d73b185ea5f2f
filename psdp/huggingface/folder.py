"""Reading a folder of Hugging Face's: what ``config.json`` says, and any part of the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from psdp.config import Config
from psdp.errors import CheckpointError, ConfigError
from psdp.huggingface.architectures import Architecture
from psdp.huggingface.settings import settings_of, shape_of
from psdp.huggingface.tensors import Counterpart, counterparts
from psdp.params import Array, ParamTable

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_POSITIONS = "embedding.positions"


@dataclass(frozen=True)
class Folder:
    """A model that lies in a folder.

    Attributes:
        settings: of its shape.
        vocab_size: V, rows of its token embedding.
    """

    path: Path
    row: Architecture
    settings: Mapping[str, Any]
    vocab_size: int

    def weights(self, table: ParamTable, span: range, dtype: npt.DTypeLike) -> Array:
        """Return the weights ``span`` of the flat vector of a table that has the shape of this
        model, or sees fewer positions. Only the tensors are read that have some of them.

        Raises:
            CheckpointError: one of them is missing, or has another shape; or there are more than
                this model has.
        """
        model = Config.from_flat(self.settings).model
        flat: Array = np.empty(len(span), dtype)
        parameters = counterparts(self.row, model, table.specs)
        self._check_nothing_more({name for one in parameters for name in one.theirs})
        for one in parameters:
            start = table.offsets[one.spec.name]
            stop = start + one.spec.size
            inside = range(max(start, span.start), min(stop, span.stop))
            if inside:
                own = self._parameter(one).reshape(-1)[inside.start - start : inside.stop - start]
                flat[inside.start - span.start : inside.stop - span.start] = own
        return flat

    def _check_nothing_more(self, expected: Collection[str]) -> None:
        """
        Raises:
            CheckpointError: a layer has parameters, or is one, that this model has not. What is no
                parameter may lie in a file, as masks do in old ones.
        """
        several = ((one,) if isinstance(one, str) else one for one in self.row.tensors.values())
        layers = "|".join(map(re.escape, chain.from_iterable(several)))
        known = re.compile(rf"{re.escape(self.row.layer)}\.\d+\.({layers})\.(weight|bias)")
        for name in self._files:
            spellings = [name]
            for begin, other in self.row.aliases.items():
                if name.startswith(other):
                    spellings.append(begin + name.removeprefix(other))
            if any(known.fullmatch(one) and one not in expected for one in spellings):
                raise CheckpointError(
                    f"{self.path} holds {name}, of which its {CONFIG} says nothing; without it "
                    "this would be another model"
                )

    def _parameter(self, one: Counterpart) -> Array:
        """Return a parameter; of positions as many as are asked for."""
        expected = one.shapes()

        def tensor(name: str) -> Array:
            found, shape = self._tensor(name), expected[name]
            if one.spec.name == _POSITIONS and found.ndim == len(shape):
                found = found[: shape[0]]
            if found.shape != shape:
                raise CheckpointError(
                    f"{self.path}: expected {name} of shape {shape}, got {found.shape}"
                )
            return found

        return one.ours_of(tensor)

    def _tensor(self, name: str) -> Array:
        """Return a tensor, by this name or an older one."""
        names = [name]
        for begin, other in self.row.aliases.items():
            if name.startswith(begin):
                names.append(other + name.removeprefix(begin))
        for spelling in names:
            if spelling in self._files:
                return self._files[spelling].tensor(spelling)
        raise CheckpointError(f"{self.path} holds no tensor {' or '.join(names)}")

    @cached_property
    def _files(self) -> dict[str, _File]:
        """The file that each tensor lies in."""
        index = self.path / INDEX
        if not index.exists():
            if not (self.path / WEIGHTS).exists():
                raise CheckpointError(
                    f"{self.path} holds no {WEIGHTS} and no {INDEX}; others, such as "
                    "pytorch_model.bin, are not read: save the model as safetensors"
                )
            whole = _File(self.path / WEIGHTS)
            return dict.fromkeys(whole.header, whole)
        told = _json(index)
        match told:
            case {"weight_map": dict(places)} if all(_plain(file) for file in places.values()):
                files = {file: _File(self.path / file) for file in sorted(set(places.values()))}
                return {name: files[file] for name, file in places.items()}
        raise CheckpointError(f"{index} does not say in which file each tensor lies (weight_map)")


class _File:
    """A file of tensors, mapped when the first of them is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _bytes(self) -> Array:
        """
        Raises:
            CheckpointError: it is missing, or no safetensors file.
        """
        if not self._path.is_file():
            raise CheckpointError(f"{self._path} is missing, or no file; copy it again")
        try:
            with safe_open(self._path, framework="np"):  # which sees that the header is a sound one
                return np.memmap(self._path, np.uint8, mode="r")
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._path} cannot be read as safetensors: {error}; copy it again"
            ) from None

    @cached_property
    def _begin(self) -> int:
        """Where the header ends."""
        return 8 + int.from_bytes(self._bytes[:8].tobytes(), "little")

    @cached_property
    def header(self) -> dict[str, Any]:
        """What it says of each tensor."""
        told: dict[str, Any] = json.loads(self._bytes[8 : self._begin].tobytes())
        told.pop("__metadata__", None)
        return told

    def tensor(self, name: str) -> Array:
        """Return a tensor, which the file maps where its type is one of NumPy's.

        Raises:
            CheckpointError: there is none of this name, or it is not of real numbers.
        """
        entry = self.header.get(name, {"dtype": "missing"})
        if entry["dtype"] not in _TYPES:
            known = ", ".join(_TYPES)
            raise CheckpointError(
                f"{self._path}: {name} is {entry['dtype']}, expected one of {known}"
            )
        start, stop = (self._begin + offset for offset in entry["data_offsets"])
        found: Array = self._bytes[start:stop].view(_TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return found.reshape(entry["shape"])


def is_folder_of_a_model(path: Path) -> bool:
    """Say whether a folder has weights or a ``config.json`` of Hugging Face's; psdp's runs have one
    too."""
    if any((path / name).exists() for name in (WEIGHTS, INDEX)):
        return True
    try:
        told = _json(path / CONFIG)
    except CheckpointError:
        return False
    return isinstance(told, dict) and "model_type" in told


def read_folder(path: Path) -> Folder:
    """Return what ``config.json`` says of the model in a folder; weights are read when asked for.

    Raises:
        CheckpointError: it cannot be read, or is of no model that psdp can have.
    """
    told = _json(path / CONFIG)
    try:
        row, settings = settings_of(told, str(path / CONFIG))
        shape_of(Config.from_flat(settings).resolved().model)
    except ConfigError as error:  # of psdp's name for what is said there
        raise CheckpointError(f"{path / CONFIG} says what cannot be: {error}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path / CONFIG} is damaged: {error}") from None
    vocab_size = told.get("vocab_size")
    if type(vocab_size) is not int or vocab_size < 1:
        raise CheckpointError(f"{path / CONFIG}: expected a vocab_size, got {vocab_size!r}")
    return Folder(path, row, settings, vocab_size)


def _json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # one that is a FIFO gives nothing, for ever
            raise CheckpointError(f"{path} is no file; copy it again")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: expected JSON, got: {error}") from None


def _plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name
