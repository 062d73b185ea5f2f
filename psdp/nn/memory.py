"""How much of a GPU's memory a model takes to train, found by building it without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.dry_device import DryAttention, DryDevice
from psdp.backend.gpu.libraries import NO_LIBRARIES, Libraries
from psdp.config import Config
from psdp.data.batches import TextBatch
from psdp.nn.models import language_model
from psdp.task import Step

LIBRARIES = 64 * 2**20
"""Bytes that kernels, graphs and libraries take for themselves once they are used."""


def training_memory(
    config: Config,
    vocab_size: int,
    dtype: str,
    precision: str,
    libraries: Libraries = NO_LIBRARIES,
) -> Counter[str]:
    """Return the bytes of a model's buffers by name, in training on a GPU with these libraries;
    they add up to all."""
    device = DryDevice()
    planned = None if libraries.attention is None else DryAttention(libraries.attention)
    backend = GpuBackend(device, dtype, precision, Libraries(planned))
    architecture = language_model(config.model.architecture)
    size = architecture.table(config, vocab_size).size
    weights, gradient = backend.empty(size), backend.empty(size)
    model = architecture(config, vocab_size, backend, weights, gradient)
    # Once through, for the scratch memory that kernels ask for on their way.
    tokens = np.zeros((config.run.batch_size, config.model.block_size), np.int64)
    batch = TextBatch(tokens, tokens, np.ones(tokens.shape, bool))
    model.add_gradient(batch, Step(rng=np.random.default_rng(0)))
    parts = Counter(model.buffers)
    parts["weights"], parts["gradient"] = weights.nbytes, gradient.nbytes
    parts["all else"] = device.bytes - parts.total() + LIBRARIES
    return parts


def describe(parts: Mapping[str, int], most: int = 4) -> str:
    """Return the largest of these buffers as a sentence has them: "logits 1.20 GiB, ..."."""
    largest = Counter(parts).most_common(most)
    return ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in largest)
