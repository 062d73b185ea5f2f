"""How likely texts are: sums over the whole model's own logits, for texts of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_model import checkpoint_of, subwords

from psdp.backend import make_backend
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from psdp.errors import DataError
from psdp.generation import Sampling, continuation
from psdp.generation.model import Trained, load_trained
from psdp.generation.scoring import windows
from psdp.nn.transformer import Transformer
from psdp.params import Array

BLOCK = 24
LONG = "to be or not to be, that is the question " * 3


def trained(folder: Path, tokenizer: Tokenizer) -> Trained:
    checkpoint, _ = checkpoint_of(folder / "run", {}, tokenizer)
    return load_trained(checkpoint, "cpu")


def log_probabilities(model: Trained, ids: list[int]) -> tuple[Array, Array]:
    """Return the log-probability of each token but the first, and whether it was the likeliest;
    from the logits, one by one."""
    config, backend = model.config.model, make_backend("cpu", "float32")
    whole = Transformer(config, model.tokenizer.vocab_size, 1, backend, model.weights, None)
    found, likeliest = [], []
    for at in range(1, len(ids)):
        logits = whole.logits(np.array([ids[:at]]))[0, -1].astype(np.float64)
        shifted = logits - logits.max()
        found.append(shifted[ids[at]] - np.log(np.exp(shifted).sum()))
        likeliest.append(int(logits.argmax()) == ids[at])
    return np.array(found), np.array(likeliest)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 30))
def test_windows_predict_each_token_once_with_no_more_than_a_model_sees(
    count: int, first: int, size: int
) -> None:
    predicted: list[int] = []
    for begin, start, stop in windows(count, first, size):
        assert begin < start < stop
        assert stop - 1 - begin <= size
        assert begin == 0 or stop - 1 - begin == size, "as much is seen as there is room for"
        predicted += range(start, stop)
    assert predicted == [*range(first, count)]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), subwords()], ids=["bytes", "subwords"])
def test_a_continuation_is_as_likely_as_the_models_logits_say(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = trained(tmp_path, tokenizer)
    scorer = model.scorer()
    for context, text in (("to be", " or not"), ("to be ", "or not"), (f"{LONG}to be", " or")):
        ids = tokenizer.encode(context + text).tolist()
        first = len(tokenizer.encode(context.rstrip()))
        seen = ids[-1 - BLOCK :]
        expected, likeliest = log_probabilities(model, seen)
        own = slice(len(seen) - 1 - (len(ids) - first), None)
        score = scorer.continuation(context, text)
        assert score.log_probability == pytest.approx(expected[own].sum(), rel=1e-5)
        assert score.greedy == likeliest[own].all()
    assert scorer.continuation("to be ", "or") == scorer.continuation("to be", " or")


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK])
def test_a_whole_text_follows_the_end_of_another(tmp_path: Path, length: int) -> None:
    """Up to what is seen at once every token has all before it, the first an end of a text."""
    model = trained(tmp_path, ByteTokenizer())
    text = LONG[:length]
    ids = [ord("\n"), *text.encode()]
    expected, _ = log_probabilities(model, ids)
    score = model.scorer().text(text)
    assert score.log_probability == pytest.approx(expected.sum(), rel=1e-5)
    assert model.scorer().continuation("", text) == score


def test_a_long_text_is_the_sum_of_its_windows(tmp_path: Path) -> None:
    scorer = trained(tmp_path, ByteTokenizer()).scorer()
    ids = [ord("\n"), *LONG.encode()]
    parts = [scorer.tokens(ids[a:c], b - a) for a, b, c in windows(len(ids), 1, BLOCK)]
    assert len(parts) > 3
    total = sum(part.log_probability for part in parts)
    assert scorer.text(LONG).log_probability == pytest.approx(total, rel=1e-12)


def test_what_the_model_writes_itself_is_greedy_and_nothing_else(tmp_path: Path) -> None:
    model = trained(tmp_path, CharTokenizer.of_texts([LONG, "\n"]))
    how = Sampling(0, 0, 1), np.random.default_rng(0)
    prompt, *added = continuation(model.tokenizer, model.sampler(), "to be", 6, *how)
    written = "".join(added)
    assert model.scorer().continuation(prompt, written).greedy
    other = next(c for c in "to be" if c != written[-1])
    assert not model.scorer().continuation(prompt, written[:-1] + other).greedy


def test_characters_that_the_model_has_not_are_refused(tmp_path: Path) -> None:
    model = trained(tmp_path, CharTokenizer.of_texts([LONG]))
    with pytest.raises(DataError, match="Ж"):
        model.scorer().text("Ж")
