"""What psdp.export writes is what transformers reads: the same logits, text and tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_model import SHAPE, checkpoint_of, subwords

from psdp.config import Config
from psdp.data.tokenizer import ByteTokenizer, IdTokenizer
from psdp.export import main
from psdp.generation import Sampling, continuation, load_model
from psdp.huggingface import read_folder
from psdp.nn.transformer import parameter_table

NEOX = {"position": "rotary", "activation": "gelu-erf", "tied_head": False}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"preset": "gpt2"},
    "gpt2, untied": {"preset": "gpt2", "tied_head": False, "activation": "relu2"},
    "llama": {"preset": "llama", "n_kv_head": 2, "rope_theta": 5e5},
    "llama with biases": {"preset": "llama", "bias": True, "activation": "geglu"},
    "qwen3": {"preset": "llama", "qk_norm": True, "tied_head": True},
    "gpt-neox": NEOX | {"parallel_residual": True, "rotary_dims": 4},
    "gpt-neox, in turn": NEOX | {"rope_theta": 100.0, "tied_head": True},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_the_same_model(shape: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, which transformers needs, is missing")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer, out = subwords(288), tmp_path / "out"
    checkpoint, _ = checkpoint_of(tmp_path / "run", SHAPES[shape], tokenizer)
    assert main([str(tmp_path / "run"), "--to", "hf", str(out)]) == 0
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    prompt = "to be or not"
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ids = theirs(prompt)["input_ids"]
    assert ids == tokenizer.encode(prompt).tolist()
    _, sampler = load_model(checkpoint, "cpu")
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].numpy()
    logits = sampler.feed(np.array([ids]))[0]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    sampler.reset()
    length = SHAPE["block_size"] - len(ids)
    text = model.generate(torch.tensor([ids]), max_new_tokens=length)
    greedy = Sampling(0, 0, 1)
    rng = np.random.default_rng(0)
    own = "".join(continuation(tokenizer, sampler, prompt, int(length), greedy, rng, None))
    assert own == theirs.decode(text[0], skip_special_tokens=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_written_is_read_back_bit_for_bit(shape: str, tmp_path: Path) -> None:
    checkpoint, weights = checkpoint_of(tmp_path / "run", SHAPES[shape], ByteTokenizer())
    assert main([str(checkpoint), "--to", "hf", str(tmp_path / "out")]) == 0
    folder = read_folder(tmp_path / "out")
    model = Config.from_flat(folder.settings).resolved().model
    table = parameter_table(model, folder.vocab_size)
    assert folder.vocab_size == 256
    for span in (range(table.size), range(100, table.size // 2), range(table.size - 3, table.size)):
        read = folder.weights(table, span, "float32")
        assert np.array_equal(read, weights[span.start : span.stop])


def test_a_tokenizer_that_is_none_of_hugging_faces_is_left_out(tmp_path: Path) -> None:
    checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, IdTokenizer(50))
    assert main([str(tmp_path / "run"), "--to", "hf", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (told["architectures"], told["eos_token_id"]) == (["GPT2LMHeadModel"], None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"preset": "nanochat"}, "--logit-softcap 15.0, --activation relu2"),
        ({"preset": "gpt2", "value_embeddings": True}, "--value-embeddings True"),
        ({"preset": "gpt2", "bias": False}, "--bias False"),
        ({"preset": "gpt2", "position": "sinusoidal"}, "--position sinusoidal"),
        ({"preset": "llama", "logit_softcap": 15.0, "rotary_dims": 4}, "--logit-softcap 15.0"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    settings: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_of(tmp_path / "run", settings, ByteTokenizer())
    assert main([str(tmp_path / "run"), "--to", "hf", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_other_refusals_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, ByteTokenizer())
    run, out = str(tmp_path / "run"), tmp_path / "out"
    for args, status, said in (
        (
            [run, "--to", "onnx", str(out)],
            2,
            "--to onnx: expected hf and a folder, or gguf and a file",
        ),
        ([run, "--to", "hf"], 2, "--to"),
        ([str(tmp_path / "none"), "--to", "hf", str(out)], 6, "no such folder"),
        ([run, "--best", "--to", "hf", str(out)], 6, "no best checkpoint"),
        ([str(checkpoint), "--best", "--to", "hf", str(out)], 2, "--best"),
        ([run, "--to", "hf", run], 6, "is not empty"),
    ):
        assert main(args) == status
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not out.exists()


def test_what_gguf_needs_is_an_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, ByteTokenizer())
    assert main([str(tmp_path / "run"), "--to", "gguf", str(tmp_path / "out")]) == 2
    assert "pip install 'psdp[gguf]'" in capsys.readouterr().err


def test_the_best_checkpoint_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, _ = checkpoint_of(tmp_path / "run", {"preset": "gpt2"}, ByteTokenizer(), best=True)
    assert main([str(tmp_path / "run"), "--best", "--to", "hf", str(tmp_path / "out")]) == 0
    assert checkpoint.name in capsys.readouterr().out
