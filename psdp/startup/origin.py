"""The step that looks at what a new run begins with instead of random weights: those of another
run, or of a folder of Hugging Face's; their shape and their tokenizer with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import find_checkpoint, read_manifest, say_which_weights
from psdp.config import Config, flag_of, is_url, with_preset
from psdp.errors import CheckpointError, ConfigError
from psdp.huggingface import is_folder_of_a_model, shape_of
from psdp.startup.choosing import tell
from psdp.startup.step import Step


@dataclass(frozen=True)
class Began:
    """What rank 0 tells: settings that follow from what the run begins with, which they name; None
    if it begins with random weights, or goes on."""

    settings: dict[str, Any] | None


@dataclass(frozen=True)
class ChooseOrigin(Step[None, Began, Mapping[str, Any] | None]):
    """Look on rank 0 at what ``--init-from`` names: of a run it is the latest checkpoint that is
    whole.

    Args:
        given: settings of this rank's command line.
    """

    rank: int
    given: Mapping[str, Any]

    facts = Began

    def act(self) -> tuple[None, Began]:
        named = self.given.get("init_from")
        if self.rank != 0 or named is None or self.given.keys() & {"resume", "replay"}:
            return None, Began(None)
        from psdp.startup.sources import origin_at  # which few jobs need

        found, raw = _find(named), bool(self.given.get("raw_weights"))
        origin = origin_at(found, raw=raw)
        if not is_folder_of_a_model(found):
            say_which_weights(read_manifest(found), tell, raw=raw)
        return None, Began(origin.settings() | {"init_from": str(origin.path)})

    def agree(self, facts: Mapping[int, Began]) -> Mapping[str, Any] | None:
        return facts[0].settings


def _find(named: str) -> Path:
    """
    Raises:
        ConfigError: it is a URL.
        CheckpointError: there is nothing to begin with.
    """
    if is_url(named):
        raise ConfigError(
            f"--init-from {named} is a URL; bring the run here first (python -m psdp.launch "
            f"--resume {named} --out DIR), or name a folder"
        )
    if is_folder_of_a_model(Path(named)):
        return Path(named)
    try:
        return find_checkpoint(Path(named), tell)
    except CheckpointError as error:
        raise CheckpointError(
            f"--init-from: {error}, or a folder of Hugging Face's with config.json and "
            "model.safetensors"
        ) from None


def begun(given: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run is given that begins with the weights of which ``origin`` tells.

    Raises:
        ConfigError: a flag says another model than that, or another tokenizer.
    """
    shape = _shape(origin)
    for name, value in with_preset(given).items():
        if name not in origin or name == "init_from":
            continue
        other = {**origin, name: value}
        longest = origin["block_size"] if origin["position"] == "learned" else math.inf
        if name == "block_size":
            same = value <= longest
        else:
            same = value == origin[name] or (name in shape and _shape(other) == shape)
        if not same:
            raise ConfigError(
                f"{flag_of(name)} {value} differs from {origin[name]!s:.80} of the model in "
                f"{origin['init_from']}; drop the flag"
            )
    return {**origin, **given, "init_from": origin["init_from"]}


def _shape(values: Mapping[str, Any]) -> dict[str, Any]:
    return shape_of(Config.from_flat(values).model)
