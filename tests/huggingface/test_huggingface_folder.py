"""Folders as others write them: shards, other types, older names; and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from psdp.config import Config
from psdp.errors import CheckpointError
from psdp.huggingface import ARCHITECTURES, is_folder_of_a_model, read_folder, write_folder
from psdp.nn.transformer import parameter_table
from psdp.params import Array, ParamTable

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 6, "norm_eps": 1e-6}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"preset": "gpt2"},
    "llama": {"preset": "llama", "n_kv_head": 1},
    "gpt_neox": {"position": "rotary", "rotary_dims": 2, "tied_head": False},
}
VOCAB = 11


class Made:
    """A folder of a model of psdp's, which a test may change."""

    def __init__(self, path: Path, kind: str) -> None:
        config = Config.from_flat(SHAPE | KINDS[kind]).resolved().model
        self.path = path
        self.table = parameter_table(config, VOCAB)
        noise = np.random.default_rng(3).standard_normal(self.table.size)
        self.weights = noise.astype("float32")
        how: dict[str, Any] = {"tokenizer": {}, "ending": None}
        write_folder(path, config, self.table, self.weights, VOCAB, **how)

    @property
    def tensors(self) -> dict[str, Array]:
        return load_file(self.path / "model.safetensors")

    def keep(self, tensors: Mapping[str, Array]) -> None:
        save_file(dict(tensors), self.path / "model.safetensors")

    def say(self, **changes: Any) -> None:
        """Change what config.json says; None takes a key out."""
        file = self.path / "config.json"
        told = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: v for key, v in told.items() if v is not None}))

    def shard(self) -> None:
        """Cut the tensors into two files with an index."""
        tensors = self.tensors
        places = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(sorted(tensors))}
        for file in set(places.values()):
            own = {name: tensors[name] for name in places if places[name] == file}
            save_file(own, self.path / file)
        index = self.path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (self.path / "model.safetensors").unlink()

    def read(self, table: ParamTable | None = None, dtype: str = "float32") -> Array:
        table = table or self.table
        return read_folder(self.path).weights(table, range(table.size), dtype)


@pytest.fixture
def gpt2(tmp_path: Path) -> Made:
    return Made(tmp_path / "gpt2", "gpt2")


@pytest.fixture
def llama(tmp_path: Path) -> Made:
    return Made(tmp_path / "llama", "llama")


@pytest.fixture
def neox(tmp_path: Path) -> Made:
    return Made(tmp_path / "neox", "gpt_neox")


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_found_by_their_index(kind: str, tmp_path: Path) -> None:
    made = Made(tmp_path / "made", kind)
    made.shard()
    assert np.array_equal(made.read(), made.weights)


def test_a_part_needs_no_file_but_those_of_its_tensors(llama: Made) -> None:
    llama.shard()
    index = json.loads((llama.path / "model.safetensors.index.json").read_text())
    needed = index["weight_map"]["model.layers.0.input_layernorm.weight"]
    other = next(file for file in index["weight_map"].values() if file != needed)
    (llama.path / other).write_bytes(b"no tensors")
    start = llama.table.offsets["block.0.norm1.gain"]
    part = read_folder(llama.path).weights(llama.table, range(start + 2, start + 8), "float32")
    assert np.array_equal(part, llama.weights[start + 2 : start + 8])
    with pytest.raises(CheckpointError, match=f"{other} cannot be read as safetensors"):
        llama.read()


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_tensors_of_other_types_are_read(llama: Made, kind: str) -> None:
    llama.keep({name: tensor.astype(kind) for name, tensor in llama.tensors.items()})
    assert np.array_equal(llama.read(), llama.weights.astype(kind).astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(llama: Made) -> None:
    header, body = {}, b""
    for name, tensor in llama.tensors.items():
        raw = (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        span = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": span}
        body += raw
    text = json.dumps(header).encode()
    file = llama.path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + body)
    cut = (llama.weights.view(np.uint32) >> 16 << 16).view(np.float32)
    assert np.array_equal(llama.read(), cut)


def test_names_of_older_files_are_known(gpt2: Made, neox: Made) -> None:
    # GPT-2 as it was published, with the masks of its attention; GPT-NeoX before transformers 5.
    older = {name.removeprefix("transformer."): tensor for name, tensor in gpt2.tensors.items()}
    gpt2.keep(older | {"h.0.attn.bias": np.ones((1, 1, 6, 6), np.float32)})
    assert np.array_equal(gpt2.read(), gpt2.weights)
    tensors = neox.tensors
    neox.keep({"embed_out.weight": tensors.pop("lm_head.weight"), **tensors})
    assert np.array_equal(neox.read(), neox.weights)


def test_keys_of_older_files_are_known(neox: Made, llama: Made) -> None:
    neox.say(rope_parameters=None, rope_theta=None, rotary_emb_base=100, rotary_pct=0.5)
    settings = read_folder(neox.path).settings
    assert (settings["rope_theta"], settings["rotary_dims"]) == (100.0, 2)
    llama.say(rope_parameters=None, head_dim=None, num_key_value_heads=None, attention_bias=None)
    settings = read_folder(llama.path).settings
    assert (settings["rope_theta"], settings["rotary_dims"]) == (10000.0, None)
    assert settings["n_kv_head"] is None


def test_of_learned_positions_fewer_may_be_taken(gpt2: Made) -> None:
    settings = dict(read_folder(gpt2.path).settings) | {"block_size": 4}
    table = parameter_table(Config.from_flat(settings).resolved().model, VOCAB)
    before, after = gpt2.table.views(gpt2.weights), table.views(gpt2.read(table))
    for name, view in after.items():
        whole = before[name]
        assert np.array_equal(view, whole[:4] if name == "embedding.positions" else whole)


def test_another_architecture_names_those_that_are_known(gpt2: Made) -> None:
    gpt2.say(model_type="mamba")
    with pytest.raises(CheckpointError, match="model_type 'mamba'") as refused:
        read_folder(gpt2.path)
    assert all(kind in str(refused.value) for kind in ARCHITECTURES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type 'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"head_dim": 16}, "head_dim 16"),
        ({"hidden_act": "gelu_10"}, "hidden_act 'gelu_10'"),
        ({"attention_bias": True}, "mlp_bias False"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rope_parameters": "none"}, "is damaged"),
        ({"num_attention_heads": 0}, "is damaged"),
        ({"num_hidden_layers": "2"}, "config.json says what cannot be: --n-layer expects int"),
    ],
)
def test_what_psdp_has_not_is_refused(llama: Made, changes: dict[str, Any], said: str) -> None:
    llama.say(**changes)
    with pytest.raises(CheckpointError, match=said):
        read_folder(llama.path)


def test_tensors_that_do_not_match_are_named(llama: Made) -> None:
    tensors = llama.tensors
    name = "model.layers.1.self_attn.k_proj.weight"
    llama.keep(tensors | {name: tensors[name][:-1].copy()})
    with pytest.raises(CheckpointError, match=rf"expected {name} of shape \(4, 8\), got \(3, 8\)"):
        llama.read()
    llama.keep({key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=f"holds no tensor {name}"):
        llama.read()
    llama.keep(tensors | {name: tensors[name].astype(np.int32)})
    with pytest.raises(CheckpointError, match=f"{name} is I32, expected one of F64"):
        llama.read()


@pytest.mark.parametrize("places", [{"weight_map": {"a": "../b"}}, {"weight_map": []}, []])
def test_an_index_is_not_trusted(llama: Made, places: Any) -> None:
    (llama.path / "model.safetensors.index.json").write_text(json.dumps(places))
    with pytest.raises(CheckpointError, match="weight_map"):
        llama.read()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("gpt2", "transformer.h.2.ln_1.weight"),
        ("gpt2", "h.2.ln_1.weight"),
        ("llama", "model.layers.1.self_attn.q_proj.bias"),
    ],
)
def test_parameters_that_config_json_does_not_tell_of_are_refused(
    tmp_path: Path, kind: str, more: str
) -> None:
    made = Made(tmp_path / kind, kind)
    made.keep(made.tensors | {more: np.ones(8, np.float32)})
    with pytest.raises(CheckpointError, match=f"holds {more}, of which its config.json says"):
        made.read()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(gpt2: Made, name: str) -> None:
    (gpt2.path / name).unlink()
    os.mkfifo(gpt2.path / name)
    with pytest.raises(CheckpointError, match=f"{name} is .*no file; copy it again"):
        gpt2.read()


def test_a_folder_with_weights_and_a_damaged_config_is_one_of_a_model(gpt2: Made) -> None:
    for text in ("", "{", "[" * 100_000):
        (gpt2.path / "config.json").write_text(text)
        assert is_folder_of_a_model(gpt2.path)
        with pytest.raises(CheckpointError, match=r"config\.json is damaged: expected JSON"):
            gpt2.read()


def test_a_number_that_no_model_can_have_is_told_with_its_file(gpt2: Made) -> None:
    gpt2.say(n_head=0)
    with pytest.raises(
        CheckpointError, match=r"config\.json says what cannot be: --n-head must be"
    ):
        gpt2.read()


def test_weights_of_another_format_are_not_read(gpt2: Made) -> None:
    (gpt2.path / "model.safetensors").rename(gpt2.path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"others, such as pytorch_model\.bin, are not read"):
        gpt2.read()
