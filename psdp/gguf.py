"""A model as GGUF, the file that llama.cpp and its kin read; written by the gguf package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from psdp.appearing import told_of
from psdp.config import ModelConfig, flag_of, head_size, kv_heads, mlp_width
from psdp.data.extra import needed
from psdp.data.tokenizer import Tokenizer
from psdp.errors import CheckpointError, ConfigError
from psdp.huggingface import Architecture, architecture_of, counterparts
from psdp.params import Array, ParamTable

ACTIVATIONS = {"gpt2": "gelu", "llama": "swiglu"}
"""The architectures that there is a shape for, and the one activation of each."""


def write_gguf(
    out: Path, model: ModelConfig, table: ParamTable, weights: Array, tokenizer: Tokenizer
) -> str:
    """Make the file ``out`` of a model with these weights (P,), in float32; return of what
    architecture it is there. It appears when it is whole.

    Raises:
        ConfigError: the gguf package is not installed, or there is no such model in GGUF.
        CheckpointError: the file is there already, or cannot be written.
    """
    library = needed("gguf", "--to gguf is written by the gguf package", extra="gguf")
    row = _row_of(model)
    if os.path.lexists(out):
        raise CheckpointError(f"{out} is there already; choose another file, or remove it")
    if not out.parent.is_dir():
        raise CheckpointError(f"{out} cannot be written: {out.parent} is no folder; make it first")
    beside = out.parent / f".{out.name}.psdp-{os.getpid()}"
    writer = library.GGUFWriter(beside, row.kind)
    _describe(writer, row, model)
    _add_tokenizer(library, writer, tokenizer)
    names = library.get_tensor_name_map(
        library.MODEL_ARCH.GPT2 if row.kind == "gpt2" else library.MODEL_ARCH.LLAMA, model.n_layer
    )
    for name, tensor in _tensors(row, model, table, weights):
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, np.ascontiguousarray(tensor, np.float32))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        beside.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {told_of(error)}") from None
    finally:
        beside.unlink(missing_ok=True)
    return row.kind


def _row_of(model: ModelConfig) -> Architecture:
    """
    Raises:
        ConfigError: it is none of which there is a shape in GGUF.
    """
    row = architecture_of(model)
    if row.kind not in ACTIVATIONS:
        raise ConfigError(
            f"--to gguf is for the shapes of {' and '.join(ACTIVATIONS)}, this model is a "
            f"{row.name}; --to hf takes it"
        )
    if model.activation != ACTIVATIONS[row.kind]:
        raise ConfigError(
            f"--to gguf: a {row.kind} there has {flag_of('activation')} {ACTIVATIONS[row.kind]}, "
            f"this model {model.activation}"
        )
    return row


def _describe(writer: Any, row: Architecture, model: ModelConfig) -> None:
    """Say the model's shape."""
    writer.add_block_count(model.n_layer)
    writer.add_context_length(model.block_size)
    writer.add_embedding_length(model.n_embd)
    writer.add_feed_forward_length(mlp_width(model))
    writer.add_head_count(model.n_head)
    if row.kind == "gpt2":
        writer.add_layer_norm_eps(model.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(model.norm_eps)
        writer.add_head_count_kv(kv_heads(model))
        writer.add_rope_freq_base(model.rope_theta)
        writer.add_rope_dimension_count(head_size(model))


def _add_tokenizer(library: Any, writer: Any, tokenizer: Tokenizer) -> None:
    """Say the tokenizer: byte-level BPE that splits text as GPT-2's does, or none.

    Raises:
        ConfigError: it is of subwords, and of another kind.
    """
    writer.add_vocab_size(tokenizer.vocab_size)
    definitions = [*tokenizer.files().values()]
    if not definitions:
        writer.add_tokenizer_model("none")
        return
    told = json.loads(definitions[0])
    if told["model"].get("type") != "BPE" or not tokenizer.cuts_at_lines:
        raise ConfigError(
            "--to gguf: the tokenizer is no byte-level BPE that splits text as GPT-2's does"
        )
    kind = library.TokenType
    tokens = [f"[PAD{number}]" for number in range(tokenizer.vocab_size)]
    types = [kind.UNUSED] * tokenizer.vocab_size
    for token, number in told["model"]["vocab"].items():
        tokens[number], types[number] = token, kind.NORMAL
    for added in told.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kind.CONTROL if added["special"] else kind.USER_DEFINED
    merges = told["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    if tokenizer.end_of_text is not None:
        writer.add_bos_token_id(tokenizer.end_of_text)
        writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(False)


def _tensors(
    row: Architecture, model: ModelConfig, table: ParamTable, weights: Array
) -> Iterator[tuple[str, Array]]:
    """Yield all tensors by Hugging Face's names, as they lie in GGUF: matrices are (out, in)."""
    named = table.views(weights)
    heads = {"q_proj": model.n_head, "k_proj": kv_heads(model)}
    for one in counterparts(row, model, table.specs):
        for name, tensor in one.theirs_of(named[one.spec.name]).items():
            turned = tensor if row.transposed or not one.spec.matrix else tensor.T
            layer = name.split(".")[-2]
            yield name, _interleaved(turned, heads[layer]) if layer in heads else turned


def _interleaved(tensor: Array, heads: int) -> Array:
    """Return the channels (H * D, ...) of queries or keys with those side by side that are turned
    together, as the rotary positions of llama.cpp's Llama have them: d and d + D/2."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)
