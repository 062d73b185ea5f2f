"""Generation: the cache changes nothing, characters stay whole, and stdout is the text alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.backend import make_backend
from psdp.checkpoint import CheckpointId, CheckpointStore, read_manifest
from psdp.config import Config, ModelConfig
from psdp.data.subwords import SubwordTokenizer
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, IdTokenizer, Tokenizer
from psdp.generate import BETWEEN, main, parse
from psdp.generation import Context, Sampling, continuation, load_model
from psdp.generation.text import until
from psdp.nn.decoder import Decoder
from psdp.nn.transformer import Transformer, parameter_table
from psdp.params import Array

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=12, block_size=8)
GREEDY = Sampling(0, 0, 1)
CHINESE = "参数服务器，天地玄黃"


def weights_of(config: ModelConfig, vocab_size: int, dtype: str = "float64") -> Array:
    """Return weights large enough that the likeliest token changes from step to step."""
    table = parameter_table(config, vocab_size)
    noise = np.random.default_rng(3).standard_normal(table.size)
    return table.initial(1, dtype) + 0.3 * noise.astype(dtype)


def decoder_of(config: ModelConfig, vocab_size: int) -> Decoder:
    weights = weights_of(config, vocab_size)
    return Decoder(config, vocab_size, make_backend("cpu", "float64"), weights)


class Scripted:
    """Chooses what it was told to, whatever the logits."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = iter(tokens)

    def choose(self, logits: Array, rng: np.random.Generator) -> int:
        return next(self._tokens)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# The model and its window


def begin_of_window(prompt: int, length: int, size: int) -> int:
    """Return where the window begins when a text of ``prompt`` tokens has grown to ``length``.

    It begins at the prompt's last block_size tokens. Whenever it would hold more than block_size,
    it begins anew at the last block_size // 2.
    """
    begin = max(0, prompt - size)
    for end in range(prompt, length + 1):
        if end - begin > size:
            begin = end - max(1, size // 2)
    return begin


def logits_from_scratch(
    config: ModelConfig, vocab_size: int, prompt: int, text: list[int]
) -> Array:
    """Return the logits (V,) after ``text`` from the whole model on its window, without a cache."""
    weights = weights_of(config, vocab_size)
    model = Transformer(config, vocab_size, 1, make_backend("cpu", "float64"), weights, None)
    window = text[begin_of_window(prompt, len(text), config.block_size) :]
    logits: Array = model.logits(np.array([window]))[0, -1]
    return logits


def greedy_from_scratch(
    config: ModelConfig, vocab_size: int, prompt: list[int], count: int
) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(int(logits_from_scratch(config, vocab_size, len(prompt), text).argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("prompt", [1, 5, 8, 9, 30])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_logits_are_the_whole_models_far_beyond_its_window(position: str, prompt: int) -> None:
    config = replace(TINY, position=position)
    text = np.random.default_rng(prompt).integers(0, 50, prompt + 30).tolist()
    context, new = Context(decoder_of(config, 50)), text[:prompt]
    for end in range(prompt, len(text)):
        expected = logits_from_scratch(config, 50, prompt, text[:end])
        got = context.feed(np.array([new]))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)  # float64
        new = text[end : end + 1]


@pytest.mark.parametrize("prompt", [1, 8, 20])
@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
def test_greedy_text_is_the_argmax_of_the_whole_model(block_size: int, prompt: int) -> None:
    config, tokenizer = replace(TINY, block_size=block_size), IdTokenizer(50)
    ids = list(range(prompt))
    pieces = continuation(
        tokenizer, decoder_of(config, 50), tokenizer.decode(ids), 30, GREEDY, rng()
    )
    expected = tokenizer.decode(ids + greedy_from_scratch(config, 50, ids, 30))
    assert "".join(pieces) == expected


def test_a_token_costs_two_positions_on_average_however_long_the_text() -> None:
    decoder = decoder_of(replace(TINY, block_size=32), 50)
    fed: list[int] = []
    feed = decoder.feed
    decoder.feed = lambda tokens: (fed.append(tokens.size), feed(tokens))[1]  # type: ignore
    context = Context(decoder)
    for _ in range(1000):
        context.feed(np.array([[1]]))
    assert sum(fed) <= 2 * 1000
    assert max(fed) == 16


# The text


def pieces_of(
    tokenizer: Tokenizer, prompt: str, tokens: list[int], config: ModelConfig = TINY
) -> list[str]:
    decoder = decoder_of(config, tokenizer.vocab_size)
    script: Any = Scripted(tokens)
    return list(continuation(tokenizer, decoder, prompt, len(tokens), script, rng()))


def test_a_character_of_several_bytes_appears_whole_with_its_last_byte() -> None:
    pieces = pieces_of(ByteTokenizer(), "天", list(CHINESE.encode()))
    assert pieces == ["天", *(piece for char in CHINESE for piece in ("", "", char)), ""]


def test_half_a_character_at_the_end_is_shown_as_a_replacement() -> None:
    assert "".join(pieces_of(ByteTokenizer(), "", list("数".encode()[:2]))) == "\ufffd"


def test_ids_are_separated_by_blanks_from_the_prompt_on() -> None:
    assert "".join(pieces_of(IdTokenizer(100), "1  2", [3, 40])) == "1 2 3 40"


SUBWORDS = SubwordTokenizer.trained(["to be or not to be"], 270)


def test_a_text_ends_at_its_end_unless_another_stop_is_said() -> None:
    tokens = [*SUBWORDS.encode("or not<|endoftext|>to be")]
    decoder = decoder_of(TINY, SUBWORDS.vocab_size)

    def text(stop: str | None) -> str:
        script: Any = Scripted(tokens)
        how = "to be ", len(tokens), script, rng(), stop
        return "".join(continuation(SUBWORDS, decoder, *how))

    assert text(None) == "to be or not"
    assert text("") == "to be or not<|endoftext|>to be"
    assert text("t<") == "to be or no"
    assert text("to be") == "to be or not<|endoftext|>", "the prompt's own text is no end"


@given(st.lists(st.text("ab", max_size=4)), st.text("ab", min_size=1, max_size=4))
def test_what_comes_before_a_stop_is_all_that_is_shown(pieces: list[str], stop: str) -> None:
    shown = list(until(iter(pieces), stop))
    assert "".join(shown) == "".join(pieces).partition(stop)[0]


def test_what_cannot_begin_a_stop_is_shown_at_once() -> None:
    shown = until(iter(["ab", "c", "\n", "\nd"]), "\n\n")
    assert [next(shown) for _ in range(3)] == ["ab", "c", ""]


def test_nothing_is_computed_for_no_tokens() -> None:
    assert pieces_of(ByteTokenizer(), "def ", []) == ["def ", ""]


@pytest.mark.parametrize(
    ("tokenizer", "first"),
    [
        (ByteTokenizer(), ord("\n")),
        (CharTokenizer("\t\nab"), 1),
        (CharTokenizer("ab"), 0),
        (IdTokenizer(20), 0),
        (SUBWORDS, SUBWORDS.end_of_text),
    ],
    ids=["byte", "char", "char without newline", "ids", "subwords"],
)
def test_an_empty_prompt_is_a_newline_that_is_not_printed(tokenizer: Tokenizer, first: int) -> None:
    decoder = decoder_of(TINY, tokenizer.vocab_size)
    got = list(continuation(tokenizer, decoder, "", 20, GREEDY, rng(), stop=""))
    ids = greedy_from_scratch(TINY, tokenizer.vocab_size, [first], 20)
    assert "".join(got) == tokenizer.decode(ids)


# The program


def save(
    run: Path, tokenizer: Tokenizer, step: int = 10, changes: Mapping[str, Any] | None = None
) -> CheckpointStore:
    """Write a checkpoint of a tiny model as a run with two servers would; return its store."""
    table = parameter_table(TINY, tokenizer.vocab_size)
    weights = weights_of(TINY, tokenizer.vocab_size, "float32")
    store = CheckpointStore(run, keep=0)
    files = [
        store.write_shard(
            CheckpointId(step, step), k, 2, {"weights": weights[part.start : part.stop] * step}
        )
        for k, part in enumerate(part.span for part in table.parts(2))
    ]
    identity = {
        "settings": Config(model=TINY).resolved().flat(),
        "tokenizer": tokenizer.to_json(),
        "layout": table.index(),
        "attached": tokenizer.files(),
    }
    store.commit(CheckpointId(step, step), files, identity | dict(changes or {}))
    return store


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "run", ByteTokenizer())
    return tmp_path / "run"


def generate(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main([str(word) for word in argv])
    return status, *capsys.readouterr()


def test_a_checkpoint_has_the_tokenizer_of_its_subwords(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "run", SUBWORDS)
    folder = tmp_path / "run" / "checkpoints" / "step-000010-v000010"
    assert (folder / "tokenizer.json").read_text() == SUBWORDS.definition
    assert load_model(folder, "cpu")[0] == SUBWORDS
    flags = ("--checkpoint", folder, "--prompt", "to be", "--tokens", "0")
    assert generate(capsys, *flags) == (0, "to be\n", "")
    (folder / "tokenizer.json").write_text(SUBWORDS.definition.replace("[", " [", 1))
    status, _, said = generate(capsys, *flags)
    assert status == 6
    assert "tokenizer.json is damaged" in said


def test_the_text_is_the_prompt_and_what_the_model_adds_and_a_newline(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--prompt", "def ", "--tokens", "30", "--temperature", "0")
    tokenizer, decoder = load_model(run / "checkpoints" / "step-000010-v000010", "cpu")
    expected = "".join(continuation(tokenizer, decoder, "def ", 30, GREEDY, rng()))
    assert generate(capsys, "--checkpoint", run, *flags) == (0, expected + "\n", "")


def test_a_checkpoint_from_before_a_model_had_more_settings_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"n_layer", "n_head", "n_embd", "block_size", "dropout", "bias", "activation"}
    names |= {"position", "init", "architecture"}
    flat = Config(model=TINY).resolved().flat()
    later = {field.name for field in fields(ModelConfig)} - names
    before = {name: value for name, value in flat.items() if name not in later}
    save(tmp_path / "now", ByteTokenizer())
    save(tmp_path / "before", ByteTokenizer(), changes={"settings": before | {"norm": "layer"}})
    flags = ("--prompt", "def ", "--tokens", "30", "--temperature", "0")
    now, then = (
        generate(capsys, "--checkpoint", tmp_path / run, *flags) for run in ("now", "before")
    )
    assert now == then
    assert now[0] == 0


def test_a_seed_repeats_and_another_does_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*seed: str) -> str:
        flags = ("--temperature", "9", "--tokens", "40", *seed)
        status, out, err = generate(capsys, "--checkpoint", run, *flags)
        assert (status, err) == (0, "")
        return out

    assert text("--seed", "1") == text("--seed", "1")
    assert len({text("--seed", "1"), text("--seed", "2"), text(), text()}) == 4


def test_several_texts_are_those_that_are_made_one_at_a_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--checkpoint", run, "--tokens", 12, "--seed", 5, "--temperature", 9)
    status, three, _ = generate(capsys, *how, "--prompt", "def", "--num-samples", 3)
    samples = three.removesuffix("\n").split(f"\n{BETWEEN}")
    assert (status, len({*samples})) == (0, 3)
    _, one, _ = generate(capsys, *how, "--prompt", "def")
    assert one == f"{samples[0]}\n"
    file = tmp_path / "prompts.txt"
    file.write_text("def\n\nclass\n")
    records = tmp_path / "prompts.jsonl"
    records.write_text('{"ask": "def"}\n{"ask": "a\\nb"}\n')
    told = []
    for more in (("--prompts", file), ("--prompts", records, "--text-field", "ask")):
        status, lines, _ = generate(capsys, *how, *more, "--num-samples", 2, "--json")
        told.append([json.loads(line) for line in lines[:-1].split("\n")])
        assert [line["sample"] for line in told[-1]] == [0, 1, 0, 1]
    assert [line["prompt"] for line in told[0]] == ["def", "def", "class", "class"]
    assert [line["prompt"] for line in told[1]] == ["def", "def", "a\nb", "a\nb"]
    assert told[0][:2] == told[1][:2]
    assert [f"def{line['text']}" for line in told[0][:2]] == samples[:2]


@pytest.mark.parametrize(
    ("content", "flags", "why"),
    [
        ("", (), "holds no prompt"),
        ('{"prompt": 3}', (), "line 1: expected text in 'prompt', got a number"),
        ('{"ask": "x"}', (), "has no 'prompt', but 'ask'; name it with --text-field"),
        ("x", ("--prompt", "y"), "give one of the two"),
        ("x", ("--num-samples", 0), "--num-samples must be at least 1, got 0"),
    ],
)
def test_prompts_that_cannot_be_are_refused_in_a_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    flags: tuple[object, ...],
    why: str,
) -> None:
    file = tmp_path / ("p.jsonl" if content.startswith("{") else "p.txt")
    file.write_text(content)
    status, out, error = generate(capsys, "--checkpoint", run, "--prompts", file, *flags)
    assert (status in (2, 3), out, error.count("\n")) == (True, "", 1)
    assert why in error


def test_a_run_folder_means_its_latest_checkpoint_or_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        store = save(tmp_path, ByteTokenizer(), step)
    store.mark_best(CheckpointId(2, 2))
    flags = ("--temperature", 0, "--tokens", 30)
    by_step = {
        step: generate(
            capsys, "--checkpoint", tmp_path / f"checkpoints/step-{step:06d}-v{step:06d}", *flags
        )
        for step in (1, 2, 3)
    }
    assert len(set(by_step.values())) == 3
    assert generate(capsys, "--checkpoint", tmp_path, *flags) == by_step[3]
    assert generate(capsys, "--checkpoint", tmp_path, "--best", *flags) == by_step[2]


def test_a_prompt_comes_from_stdin_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = f"{CHINESE}\r\n "
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompt.encode())))
    got = generate(capsys, "--checkpoint", run, "--prompt", "-", "--tokens", 0)
    assert got == (0, prompt + "\n", "")


@pytest.mark.parametrize("stdin", [None, b"\xff\xfe"])
def test_a_stdin_that_holds_no_text_is_refused(
    stdin: bytes | None,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapped = stdin and io.TextIOWrapper(io.BytesIO(stdin))
    monkeypatch.setattr(sys, "stdin", wrapped)
    status, out, err = generate(capsys, "--checkpoint", run, "--prompt", "-")
    assert (status, out) == (3, "")
    expected = "stdin is not UTF-8: byte 0xff at offset 0" if stdin else "stdin, which is closed"
    assert expected in err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--temperature", "-1"], 2, "--temperature must be finite and at least 0, got -1.0"),
        (["--temperature", "warm"], 2, "argument --temperature: invalid float value: 'warm'"),
        (["--top-k", "-1"], 2, "--top-k must be at least 0"),
        (["--top-p", "0"], 2, "--top-p must be above 0 and at most 1, got 0.0"),
        (["--top-p", "1.5"], 2, "--top-p must be above 0 and at most 1, got 1.5"),
        (["--tokens", "-1"], 2, "--tokens must be at least 0, got -1"),
        (["--tokens", "1.5"], 2, "argument --tokens: invalid int value: '1.5'"),
        (["--seed", "-1"], 2, "--seed must be at least 0, got -1"),
        (["--threads", "-1"], 2, "--threads must be at least 0, got -1"),
        (["--threads", "1025"], 2, "--threads must be at most 1024, got 1025"),
        (["--tokens", "9" * 5000], 2, "--tokens: expected a whole number below 2^63, got one of"),
        (["--seed", "9" * 20], 2, "--seed: expected a whole number below 2^63, got one of 20 d"),
        (["--device", "tpu"], 2, "argument --device: invalid choice: 'tpu'"),
        (["--token", "3"], 2, "unrecognized arguments: --token 3"),
        (["--prompt", "\udcff"], 3, "has no UTF-8 form"),
        (["--checkpoint", "/nowhere"], 6, "no checkpoint at /nowhere: there is no such folder"),
        (["--checkpoint", "/nowhere", "--best"], 6, "no checkpoint at /nowhere"),
        (["--best"], 6, "has no best checkpoint: no evaluation of that run was completed"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_nothing_on_stdout(
    flags: list[str], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = generate(capsys, "--checkpoint", run, *flags)
    assert (status, out) == (code, "")
    assert err.startswith("psdp: ")
    assert message in err
    assert err.count("\n") == 1


def test_the_checkpoint_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = generate(capsys)
    assert (status, out) == (2, "")
    assert "--checkpoint; see python -m psdp.generate --help" in err


def test_best_of_one_checkpoint_is_a_contradiction(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints" / "step-000010-v000010"
    status, _, err = generate(capsys, "--checkpoint", folder, "--best")
    assert status == 2
    assert f"{folder} is one checkpoint; give the run folder, or drop --best" in err


def test_a_character_that_the_model_never_saw_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, CharTokenizer("\n abcdef"))
    status, out, err = generate(capsys, "--checkpoint", tmp_path, "--prompt", "def x")
    assert (status, out) == (3, "")
    assert "character 'x' (U+0078) at position 4 is not among the 8 characters" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"settings": {"n_layers": 3}}, "another version of psdp: unknown setting 'n_layers'"),
        ({"tokenizer": {"kind": "bpe"}}, "another version of psdp: expected a tokenizer"),
        ({"tokenizer": {"kind": "ids", "vocab_size": 9}}, "holds other parameters"),
        ({"layout": []}, "holds other parameters than this version of psdp makes"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    state: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, ByteTokenizer(), changes=state)
    status, out, err = generate(capsys, "--checkpoint", tmp_path)
    assert (status, out) == (6, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_checkpoint_that_no_run_wrote_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    file = store.write_shard(CheckpointId(1, 1), 0, 1, {"weights": np.zeros(3, np.float32)})
    store.commit(CheckpointId(1, 1), [file], {"version": 1})
    status, _, err = generate(capsys, "--checkpoint", tmp_path)
    assert status == 6
    assert "does not say its layout, settings, tokenizer; was it written by a psdp run?" in err


def test_weights_that_are_too_few_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints" / "step-000010-v000010"
    store = CheckpointStore(run, keep=0)
    file = store.write_shard(CheckpointId(11, 11), 0, 1, {"weights": np.zeros(3, np.float32)})
    store.commit(CheckpointId(11, 11), [file], read_manifest(folder).state)
    status, _, err = generate(capsys, "--checkpoint", run)
    assert status == 6
    assert "step-000011-v000011 holds other parameters" in err


def test_damage_is_found_before_a_word_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(run.glob("checkpoints/*/shard-01-*"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    status, out, err = generate(capsys, "--checkpoint", run)
    assert (status, out) == (6, "")
    assert f"{shard} is damaged: expected sha256" in err


def test_the_latest_checkpoint_that_is_whole_goes_on_and_a_later_one_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--tokens", "5", "--seed", "1")
    expected = generate(capsys, "--checkpoint", run, *flags)
    save(run, ByteTokenizer(), 11)
    shard = next(run.glob("checkpoints/step-000011-*/shard-01-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    status, out, err = generate(capsys, "--checkpoint", run, *flags)
    assert (status, out) == expected[:2]
    assert err.startswith(f"psdp: passed over a checkpoint that is not whole: {shard} is damaged")
    assert err.count("\n") == 1
    assert generate(capsys, "--checkpoint", shard.parent, *flags)[:2] == (6, "")


def test_a_diverged_model_is_one_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = parameter_table(TINY, 256)
    store = save(tmp_path, ByteTokenizer())
    weights = np.full(table.size, 1e38, np.float32)
    file = store.write_shard(CheckpointId(11, 11), 0, 1, {"weights": weights})
    store.commit(
        CheckpointId(11, 11),
        [file],
        read_manifest(tmp_path / "checkpoints/step-000010-v000010").state,
    )
    status, out, err = generate(capsys, "--checkpoint", tmp_path, "--prompt", "a")
    assert (status, out) == (7, "a")
    assert err.count("\n") == 1


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    out = capsys.readouterr().out
    flags = "checkpoint best prompt tokens temperature top-k top-p seed device threads"
    for flag in flags.split():
        assert f"--{flag} " in out


# As a process


class Program:
    """psdp.generate in a process of its own."""

    def __init__(self, run: Path, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "psdp.generate", "--checkpoint", str(run), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
            # Started from a background job these tests would hand down an ignored Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def first_bytes(self, count: int) -> bytes:
        assert self.process.stdout
        return os.read(self.process.stdout.fileno(), count)

    def close_stdout(self) -> None:
        assert self.process.stdout
        self.process.stdout.close()

    def end(self) -> tuple[int, bytes]:
        assert self.process.stderr
        return self.process.wait(30), self.process.stderr.read()


@pytest.fixture
def start(run: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*flags: str, **environment: str) -> Program:
        program = Program(run, *flags, **environment)
        started.append(program.process)
        return program

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def test_a_reader_that_has_had_enough_ends_it_quietly(start: Any) -> None:
    program = start("--prompt", "def ", "--tokens", "1000000000")
    assert program.first_bytes(4) == b"def ", "it comes as it is made, not in the end"
    program.close_stdout()
    assert program.end() == (128 + signal.SIGPIPE, b"")


def test_an_interrupt_ends_it_quietly(start: Any) -> None:
    program = start("--prompt", "def ", "--tokens", "1000000000")
    assert program.first_bytes(4) == b"def "
    program.process.send_signal(signal.SIGINT)
    program.process.communicate(timeout=30)
    assert program.process.returncode == 130


def test_characters_are_written_whole_in_the_encoding_of_stdout(start: Any) -> None:
    flags = ("--prompt", CHINESE, "--tokens", "0")
    assert start(*flags, PYTHONIOENCODING="utf-8").process.communicate() == (
        f"{CHINESE}\n".encode(),
        b"",
    )
    assert start(*flags, PYTHONIOENCODING="ascii").process.communicate() == (
        b"?" * len(CHINESE) + b"\n",
        b"",
    )


PLAIN = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale that knows ASCII alone; without the rest Python would take UTF-8."""


def test_a_prompt_is_what_was_typed_whatever_the_locale(start: Any) -> None:
    flags = ("--prompt", CHINESE, "--tokens", "0")
    assert start(*flags, **PLAIN, PYTHONIOENCODING="utf-8").process.communicate() == (
        f"{CHINESE}\n".encode(),
        b"",
    )


def test_a_prompt_that_is_not_utf_8_is_named(start: Any) -> None:
    out, err = start("--prompt", os.fsdecode(b"r\xfcn"), **PLAIN).process.communicate()
    assert out == b""
    assert err.startswith(b"psdp: --prompt has no UTF-8 form: byte 0xfc at offset 1 ")


def test_a_checkpoint_may_be_named_from_the_home_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert generate(capsys, "--checkpoint", f"~/{run.name}", "--tokens", "1")[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing")
def test_a_full_disk_is_one_line(run: Path) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "psdp.generate", "--checkpoint", str(run)],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert ended.returncode == 1
    assert ended.stderr == b"psdp: stdout cannot be written: No space left on device\n"
