"""Real jobs on corpora that are more than a text: subwords, shards; servers that see nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import RANK, at_gradient, summary, train, write_corpus

from psdp.checkpoint import find_checkpoint
from psdp.generate import main

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(120)]

WITHOUT = f"""
import os, sys
from psdp.worker import main
own = sys.argv[1:]
sys.exit(main(own if {RANK} else [word.replace("corpus.txt", "nowhere.txt") for word in own]))
"""
"""Code of a job whose first rank, which only serves, has no corpus."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def test_a_run_on_subwords_generates_and_is_gone_on_with_by_its_tokenizer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--tokenizer", "bpe", "--vocab-size", "290", "--out", "run")
    job = train(folder, 3, *flags, code=WITHOUT)
    assert job.returncode == 0, job.stdout
    assert job.stdout.count("learning 290 subwords") == 1
    assert ", vocabulary 290;" in job.stdout
    assert (find_checkpoint(folder / "run") / "tokenizer.json").exists()
    prompt = ["--prompt", "the server 梯度", "--tokens", "5", "--stop", ""]
    assert main(["--checkpoint", str(folder / "run"), *prompt]) == 0
    assert capsys.readouterr().out.startswith("the server 梯度")
    more = train(folder, 3, "--resume", "run", "--max-steps", "22", code=WITHOUT)
    assert more.returncode == 0, more.stdout
    assert summary(folder / "run")["steps"] == 22
    write_corpus(folder / "corpus.txt", words=3000)
    other = train(folder, 3, "--resume", "run", "--max-steps", "24")
    assert other.returncode == 6
    assert "(changed: corpus.txt); give it the files as they were" in other.stdout


def test_a_file_of_tokens_that_is_cut_while_it_is_read_ends_the_run_by_its_name(
    folder: Path,
) -> None:
    for name in ("a.bin", "b.bin"):
        (np.arange(3000) % 250).astype("<u2").tofile(folder / name)
    cut = at_gradient(5, 2, "os.truncate('b.bin', 100)")
    job = train(folder, 3, "--corpus", "a.bin", "b.bin", "--val-fraction", "0", code=cut)
    assert job.returncode == 5, job.stdout  # as where workers are lost for any reason, one by one
    assert "b.bin was cut to 100 of its 6,000 bytes while it was read" in job.stdout
