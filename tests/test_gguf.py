"""What --to gguf writes, read back by the package's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_model import checkpoint_of, subwords

from psdp.checkpoint import read_manifest
from psdp.config import head_size
from psdp.data.tokenizer import ByteTokenizer, Tokenizer
from psdp.export import main
from psdp.generation import identity_of, parameters_of
from psdp.params import Array

library = pytest.importorskip("gguf", reason="the gguf package is not installed")


def written(tmp_path: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> tuple[Any, ...]:
    """Return what the reader finds, and psdp's own parameters by their names."""
    checkpoint, weights = checkpoint_of(tmp_path / "run", settings, tokenizer)
    assert main([str(tmp_path / "run"), "--to", "gguf", str(tmp_path / "out.gguf")]) == 0
    manifest = read_manifest(checkpoint)
    config, _ = identity_of(manifest)
    table, _ = parameters_of(manifest, config, tokenizer.vocab_size)
    reader = library.GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, tensors, table.views(weights), config.model


def test_gpt2_with_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = subwords(280)
    fields, tensors, own, model = written(tmp_path, {"preset": "gpt2"}, tokenizer)
    assert fields["general.architecture"] == "gpt2"
    assert fields["gpt2.block_count"] == model.n_layer
    assert fields["gpt2.attention.head_count"] == model.n_head
    assert fields["gpt2.context_length"] == model.block_size
    assert fields["gpt2.attention.layer_norm_epsilon"] == pytest.approx(model.norm_eps)
    assert np.array_equal(tensors["token_embd.weight"], own["embedding.tokens"])
    assert np.array_equal(tensors["position_embd.weight"], own["embedding.positions"])
    for theirs, ours in (
        *(("attn_qkv", "attention.qkv"), ("attn_output", "attention.out")),
        *(("ffn_up", "mlp.up"), ("ffn_down", "mlp.down")),
    ):
        assert np.array_equal(tensors[f"blk.1.{theirs}.weight"], own[f"block.1.{ours}.weight"].T)
        assert np.array_equal(tensors[f"blk.1.{theirs}.bias"], own[f"block.1.{ours}.bias"])
    assert len(tensors) == len(own)
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == 280
    assert tokens[tokenizer.end_of_text] == "<|endoftext|>"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.end_of_text
    assert all(merge.count(" ") == 1 for merge in fields["tokenizer.ggml.merges"])


def test_llama_with_channels_side_by_side_that_are_turned_together(tmp_path: Path) -> None:
    settings = {"preset": "llama", "n_kv_head": 2, "rope_theta": 5e5}
    fields, tensors, own, model = written(tmp_path, settings, ByteTokenizer())
    assert fields["general.architecture"] == "llama"
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.rope.freq_base"] == 5e5
    assert fields["tokenizer.ggml.model"] == "none"
    size, width = head_size(model), model.n_embd
    queries = own["block.0.attention.qkv.weight"].T[:width]
    keys = own["block.0.attention.qkv.weight"].T[width : width + 2 * size]
    for theirs, ours in (("attn_q", queries), ("attn_k", keys)):
        assert_interleaved(tensors[f"blk.0.{theirs}.weight"], ours, size)
    assert np.array_equal(
        tensors["blk.0.attn_v.weight"], own["block.0.attention.qkv.weight"].T[-2 * size :]
    )
    gate, up = np.split(own["block.1.mlp.up.weight"].T, 2)
    assert np.array_equal(tensors["blk.1.ffn_gate.weight"], gate)
    assert np.array_equal(tensors["blk.1.ffn_up.weight"], up)
    assert np.array_equal(tensors["output.weight"], own["head.tokens"])


def assert_interleaved(theirs: Array, ours: Array, size: int) -> None:
    for channel in range(len(ours)):
        head, at = divmod(channel, size)
        half, pair = divmod(at, size // 2)
        assert np.array_equal(theirs[head * size + 2 * pair + half], ours[channel])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"preset": "llama", "qk_norm": True}, "Qwen3ForCausalLM; --to hf takes it"),
        ({"preset": "gpt2", "activation": "relu2"}, "--activation gelu, this model relu2"),
        ({"preset": "nanochat"}, "--logit-softcap 15.0"),
    ],
)
def test_what_gguf_has_not_is_refused(
    settings: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of(tmp_path / "run", settings, ByteTokenizer())
    assert main([str(tmp_path / "run"), "--to", "gguf", str(tmp_path / "out.gguf")]) == 2
    assert why in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_is_there_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, ByteTokenizer())
    (tmp_path / "mine").write_text("x")
    assert main([str(tmp_path / "run"), "--to", "gguf", str(tmp_path / "mine")]) == 6
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "x"


@pytest.mark.parametrize(
    ("out", "said"),
    [("file/out.gguf", "is no folder; make it first"), ("link", "is there already")],
)
def test_where_no_file_can_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, ByteTokenizer())
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    assert main([str(tmp_path / "run"), "--to", "gguf", str(tmp_path / out)]) == 6
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run", "file", "link"}
