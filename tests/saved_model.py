"""A checkpoint of a small model, as a run would leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.checkpoint import CheckpointId, CheckpointStore
from psdp.config import Config
from psdp.data.subwords import SubwordTokenizer
from psdp.data.tokenizer import Tokenizer
from psdp.nn.transformer import parameter_table
from psdp.params import Array

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "dropout": 0.1}


def checkpoint_of(
    run: Path, settings: dict[str, Any], tokenizer: Tokenizer, best: bool = False
) -> tuple[Path, Array]:
    """Return a checkpoint of a run with such settings, and its weights (P,)."""
    config = Config.from_flat(SHAPE | settings).resolved()
    table = parameter_table(config.model, tokenizer.vocab_size)
    noise = np.random.default_rng(3).standard_normal(table.size)
    weights = table.initial(1, "float32") + 0.3 * noise.astype("float32")
    store, at = CheckpointStore(run, keep=0), CheckpointId(3, 3)
    cut = table.size // 3
    parts = weights[:cut], weights[cut:]
    files = [store.write_shard(at, k, 2, {"weights": part}) for k, part in enumerate(parts)]
    state = {
        "settings": config.flat(),
        "layout": table.index(),
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.to_json(),
        "attached": dict(tokenizer.files()),
    }
    store.commit(at, files, state)
    if best:
        store.mark_best(at)
    return run / "checkpoints" / at.name, weights


def subwords(vocab_size: int | None = None) -> SubwordTokenizer:
    pytest.importorskip("tokenizers", reason="the library of subwords is not installed")
    learnt = SubwordTokenizer.trained(["to be or not to be, that is the question " * 3], 270)
    return SubwordTokenizer(learnt.definition, vocab_size)
