"""Writing a folder that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdp.appearing import appearing
from psdp.checkpoint.durable import write_tensors
from psdp.config import ModelConfig
from psdp.errors import CheckpointError
from psdp.huggingface.folder import CONFIG, WEIGHTS
from psdp.huggingface.settings import architecture_of, config_json
from psdp.huggingface.tensors import counterparts
from psdp.params import Array, ParamTable

GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"


@dataclass(frozen=True)
class Ending:
    """The token that stands between texts: its id, and how it is written."""

    id: int
    text: str


def write_folder(
    out: Path,
    model: ModelConfig,
    table: ParamTable,
    weights: Array,
    vocab_size: int,
    *,
    tokenizer: Mapping[str, str],
    ending: Ending | None,
) -> str:
    """Make the folder ``out`` of a model with these weights (P,); return of which class it is
    there. It appears when it is whole.

    Args:
        tokenizer: the files that define it, by their names; empty if it is none of Hugging Face's.
        ending: where it has one.

    Raises:
        ConfigError: there is no counterpart of the model.
        CheckpointError: ``out`` is not empty, or cannot be written.
        NumericsError: a weight is NaN or Inf.
    """
    row = architecture_of(model)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ending and ending.id)
    told: dict[str, Any] = {CONFIG: config_json(row, model, vocab_size, str(weights.dtype)) | ends}
    told[GENERATION] = {**ends, "do_sample": False}
    if tokenizer:
        text = ending and ending.text
        told[TOKENIZER] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.block_size,
            "clean_up_tokenization_spaces": False,
            **dict.fromkeys(("bos_token", "eos_token", "pad_token"), text),
        }
    tensors: dict[str, Array] = {}
    named = table.views(weights)
    for one in counterparts(row, model, table.specs):
        tensors |= one.theirs_of(named[one.spec.name])
    with appearing(out, CheckpointError) as beside:
        for name, content in tokenizer.items():
            (beside / name).write_text(content, encoding="utf-8")
        for name, values in told.items():
            (beside / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        write_tensors(beside / WEIGHTS, whole, {"format": "pt"})  # which transformers asks for
    return row.name
