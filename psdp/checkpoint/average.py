"""Which weights of a checkpoint are used: their average, where its run has kept one."""

from __future__ import annotations

from collections.abc import Callable

from psdp.checkpoint.layout import AVERAGE, WEIGHTS
from psdp.checkpoint.manifest import Manifest


def decay_of(manifest: Manifest) -> float:
    """Return the decay of the average that a checkpoint holds beside the weights; 0: of none."""
    return float(manifest.state.get("settings", {}).get("ema", 0))


def tensor_of(manifest: Manifest, *, raw: bool) -> str:
    """Return the name of the tensor with the weights to use: their average, where there is one,
    unless the ``raw`` ones are asked for."""
    return AVERAGE if decay_of(manifest) and not raw else WEIGHTS


def say_which_weights(manifest: Manifest, tell: Callable[[str], object], *, raw: bool) -> None:
    """Tell that the average is taken, where that is so."""
    if tensor_of(manifest, raw=raw) == AVERAGE:
        tell(
            f"{manifest.folder.name}: taken is the average of the weights (--ema "
            f"{decay_of(manifest):g}); --raw-weights takes the weights themselves"
        )
