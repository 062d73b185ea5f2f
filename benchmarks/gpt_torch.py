"""The same GPT in PyTorch, with psdp's initial weights, and one training step of it.

Only processes that compute with PyTorch import this module: its thread pools and allocators must
not be where psdp is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from psdp.config import ModelConfig, OptimConfig
from psdp.nn.transformer import parameter_table
from psdp.params import Array

_NAMES = {
    "embedding.tokens": "tokens.weight",
    "embedding.positions": "positions.weight",
    ".attention.": ".",
    ".mlp.": ".",
    "block.": "blocks.",
    ".gain": ".weight",
}
"""Parts of a name in psdp, and what they are in :class:`GPT`; replaced in this order."""


class Block(nn.Module):
    """One Transformer block. Shapes: x (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.n_head = config.n_head
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.n_head, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(width, dim=2)
        )
        merged = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.out(merged.reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """The model of psdp's default settings. Shapes: tokens, targets (B, T) -> loss ()."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)

    def forward(self, tokens: Any, targets: Any) -> Any:
        x = self.tokens(tokens) + self.positions(
            torch.arange(tokens.shape[1], device=tokens.device)
        )
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def make_gpt(config: ModelConfig, vocab_size: int, seed: int) -> Any:
    """Return a GPT with the weights that psdp starts from with this seed."""
    model = GPT(config, vocab_size)
    parameters = dict(model.named_parameters())
    table = parameter_table(config, vocab_size)
    with torch.no_grad():
        for name, view in table.views(table.initial(seed, "float32")).items():
            is_linear = name.endswith(".weight")
            for ours, theirs in _NAMES.items():
                name = name.replace(ours, theirs)
            parameters[name].copy_(torch.from_numpy(view.T if is_linear else view))
    return model


def make_step(
    model: Any, config: OptimConfig, precision: str = "float32", device: str = "cpu"
) -> Callable[[Array, Array], float]:
    """Return one training step of ``model``, which may be wrapped, with PyTorch's fastest AdamW.

    The step takes tokens and targets (B, T) and returns the loss in nats per token. With precision
    "bf16" the forward pass is under autocast; weights and optimizer stay float32.
    """
    assert config.lr is not None, "settings are resolved"
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )

    def step(tokens: Array, targets: Array) -> float:
        optimizer.zero_grad(set_to_none=True)
        inputs = [torch.from_numpy(array).to(device) for array in (tokens, targets)]
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(*inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        return float(loss.detach())

    return step
