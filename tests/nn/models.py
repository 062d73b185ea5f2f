"""Small models, and the same Transformer written a second time, in PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psdp.backend import make_backend
from psdp.config import ModelConfig
from psdp.nn.transformer import Transformer, parameter_table
from psdp.params import Array, ParamTable
from psdp.task import Step

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=12, block_size=8)
VOCAB = 11


@dataclass
class Built:
    """A model with its flat vectors and a batch."""

    config: ModelConfig
    table: ParamTable
    weights: Array
    gradient: Array
    model: Transformer
    tokens: Array
    targets: Array

    def step(self, tokens: Array, targets: Array, **how: Any) -> float:
        """Add to the gradient; return the loss of this step alone."""
        self.model.backend.clear(self.model.loss)
        self.model.forward_backward(tokens, targets, Step(**how))
        return self.model.total_loss()

    def gradients(self) -> dict[str, Array]:
        return self.table.views(self.gradient)


def build(
    config: ModelConfig = TINY,
    vocab: int = VOCAB,
    batch: int = 3,
    length: int | None = None,
    dtype: str = "float64",
    room: int | None = None,
    kernels: str = "auto",
    **changes: Any,
) -> Built:
    """Return a model whose weights are all far from zero, so that no gradient is."""
    config = replace(config, **changes)
    table = parameter_table(config, vocab)
    rng = np.random.default_rng(5)
    weights = table.initial(1, dtype) + 0.15 * rng.standard_normal(table.size).astype(dtype)
    gradient = np.zeros_like(weights)
    backend = make_backend("cpu", dtype, kernels=kernels)
    model = Transformer(config, vocab, room or batch, backend, weights, gradient)
    shape = (batch, config.block_size if length is None else length)
    tokens, targets = rng.integers(0, vocab, (2, *shape))
    return Built(config, table, weights, gradient, model, tokens, targets)


def torch_logits(config: ModelConfig, p: dict[str, Any], tokens: Any) -> Any:
    """Return (B, T, V) from named parameters, by the textbook formulas and PyTorch's own layers."""
    import torch
    from torch.nn import functional as F

    batch, length = tokens.shape
    width, heads = config.n_embd, config.n_head

    def norm(name: str, x: Any) -> Any:
        if config.norm == "rmsnorm":
            return rms_norm(p[f"{name}.gain"], x)
        return F.layer_norm(x, (width,), p[f"{name}.gain"], p.get(f"{name}.bias"), config.norm_eps)

    def rms_norm(gain: Any, x: Any) -> Any:
        return F.rms_norm(x, gain.shape, gain, config.norm_eps)

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, p[f"{name}.weight"].T, p.get(f"{name}.bias"))

    def turn(whole: Any) -> Any:
        # Rotary as a product of complex numbers: (first + i second) * exp(i angle).
        turned = config.rotary_dims or whole.shape[-1]
        x, rest = whole[..., :turned], whole[..., turned:]
        half = turned // 2
        rate = config.rope_theta ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = torch.arange(length, dtype=x.dtype)[:, None] * rate
        product = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
            torch.ones_like(angle), angle
        )
        return torch.cat([product.real, product.imag, rest], dim=-1)

    activations = {
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "gelu-erf": F.gelu,
        "relu": F.relu,
        "relu2": lambda x: F.relu(x).square(),
    }
    x = p["embedding.tokens"][tokens]
    if config.position == "learned":
        x = x + p["embedding.positions"][:length]
    if config.position == "sinusoidal":
        x = x * width**0.5
        for t in range(length):
            for c in range(width):
                angle = t / 10000 ** ((c - c % 2) / width)
                x[:, t, c] = x[:, t, c] + (math.cos(angle) if c % 2 else math.sin(angle))
    for layer in range(config.n_layer):
        name, before = f"block.{layer}", x
        kv_heads = config.n_kv_head or heads
        q, k, v = (
            part.unflatten(-1, (-1, width // heads)).transpose(1, 2)
            for part in linear(f"{name}.attention.qkv", norm(f"{name}.norm1", x)).split(
                [width, *[kv_heads * width // heads] * 2], dim=-1
            )
        )
        if config.value_embeddings:
            looked_up = p[f"{name}.attention.values.tokens"][tokens]
            v = v + looked_up.unflatten(-1, (kv_heads, -1)).transpose(1, 2)
        if config.qk_norm:
            q, k = (
                rms_norm(p[f"{name}.attention.{of}_norm.gain"], x)
                for of, x in (("query", q), ("key", k))
            )
        if config.position == "rotary":
            q, k = turn(q), turn(k)
        merged = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(
            1, 2
        )
        x = x + linear(f"{name}.attention.out", merged.reshape(batch, length, width))
        read = before if config.parallel_residual else x
        hidden = linear(f"{name}.mlp.up", norm(f"{name}.norm2", read))
        gated = {"swiglu": F.silu, "geglu": lambda x: F.gelu(x, approximate="tanh")}
        if config.activation in gated:
            gate, values = hidden.chunk(2, dim=-1)
            hidden = gated[config.activation](gate) * values
        else:
            hidden = activations[config.activation](hidden)
        x = x + linear(f"{name}.mlp.down", hidden)
    logits = norm("norm", x) @ p["embedding.tokens" if config.tied_head else "head.tokens"].T
    cap = config.logit_softcap
    return cap * torch.tanh(logits / cap) if cap else logits
