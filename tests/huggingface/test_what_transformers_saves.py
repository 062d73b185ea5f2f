"""What transformers saves, with its own defaults and in shards, is the same model here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.config import Config
from psdp.huggingface import read_folder
from psdp.nn.decoder import Decoder
from psdp.nn.transformer import parameter_table

torch = pytest.importorskip("torch", reason="PyTorch, which transformers needs, is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

VOCAB = 19
LLAMAS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
}
SHARED = {
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}),
    "llama": ("Llama", LLAMAS),
    "llama, shared heads": ("Llama", LLAMAS | SHARED),
    "qwen3": ("Qwen3", LLAMAS | {"num_key_value_heads": 1, "head_dim": 8}),
    "gpt-neox": ("GPTNeoX", LLAMAS),
    "gpt-neox, in turn": ("GPTNeoX", LLAMAS | {"use_parallel_residual": False}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_logits_are_the_same(case: str, kind: str, tmp_path: Path) -> None:
    name, how = CASES[case]
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCAB, **how)
    torch.manual_seed(3)
    auto = transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(getattr(torch, kind)).save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()

    folder = read_folder(tmp_path)
    own = Config.from_flat(folder.settings).resolved().model
    table = parameter_table(own, folder.vocab_size)
    weights = folder.weights(table, range(table.size), "float32")
    tokens = np.random.default_rng(1).integers(0, VOCAB, 16)
    logits = Decoder(own, VOCAB, make_backend("cpu", "float32"), weights).feed(tokens[None])[0]
    # As it was saved: rounding a model rounds what it turns positions by, too.
    model = auto.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor(tokens[None])).logits[0, -1].numpy()
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
