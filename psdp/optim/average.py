"""The mean of the gradients of one round of sync."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psdp.optim.blocks import block_size, blocks
from psdp.params import Array


def weighted_mean(into: Array, gradients: Sequence[Array], weights: Sequence[float]) -> None:
    """Write sum(weight * gradient) / sum(weights) into ``into`` (P,); gradients are (P,) each.

    Adds in the given order, so the same gradients in the same order give the same bits. ``into``
    may be any one of the gradients: a block is written after it has been read from all. NaN and
    Inf pass through silently for :func:`~psdp.optim.clip.sum_of_squares` to find.
    """
    assert len(gradients) == len(weights) > 0, (len(gradients), len(weights))
    total = sum(weights)
    assert total > 0, f"the weights of a mean must add up to more than zero, got {weights}"
    shares = [float(weight) / float(total) for weight in weights]
    size = min(into.size, block_size(into.dtype))
    mean_block = np.empty(size, into.dtype)
    share_block = np.empty_like(mean_block)
    with np.errstate(over="ignore", invalid="ignore"):
        for place in blocks(0, into.size, size or 1):
            target = into[place]
            mean, part = mean_block[: target.size], share_block[: target.size]
            np.multiply(gradients[0][place], shares[0], out=mean)
            for gradient, share in zip(gradients[1:], shares[1:], strict=True):
                np.multiply(gradient[place], share, out=part)
                np.add(mean, part, out=mean)
            target[...] = mean
