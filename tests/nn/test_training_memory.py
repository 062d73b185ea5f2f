"""What a model takes on a GPU is found without one, and without the memory itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from psdp.config import Config
from psdp.config.presets import PRESETS
from psdp.nn.memory import training_memory

LARGE = {"n_layer": 2, "n_head": 16, "n_embd": 1024, "block_size": 512, "batch_size": 32}
ROWS = 32 * 512


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_that_are_composed_are_counted_and_not_computed(preset: str) -> None:
    before = resident_bytes()
    settings = LARGE | {"preset": preset, "n_kv_head": 4, "value_embeddings": True}
    config = Config.from_flat(settings).resolved()
    parts = training_memory(config, 256, "float32", "bf16")
    assert parts["qkv"] == 2 * ROWS * 3 * 1024 * 2
    assert parts["packed qkv"] == ROWS * (16 + 2 * 4) * 64 * 2
    assert parts.total() > 2**29
    assert resident_bytes() - before < 2**26
