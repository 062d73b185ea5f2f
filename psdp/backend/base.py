"""What a backend offers to layers and optimizers."""

from __future__ import annotations

from psdp.backend.kernels.activation import ActivationKernels
from psdp.backend.kernels.attention import AttentionKernels
from psdp.backend.kernels.dropout import DropoutKernels
from psdp.backend.kernels.embedding import EmbeddingKernels
from psdp.backend.kernels.gated import GatedKernels
from psdp.backend.kernels.linear import LinearKernels
from psdp.backend.kernels.loss import LossKernels
from psdp.backend.kernels.normalization import NormalizationKernels
from psdp.backend.kernels.optimizer import OptimizerKernels


class Backend(
    EmbeddingKernels,
    NormalizationKernels,
    LinearKernels,
    GatedKernels,
    ActivationKernels,
    AttentionKernels,
    DropoutKernels,
    LossKernels,
    OptimizerKernels,
):
    """Arrays of a device, and every kernel that layers and optimizers are made of; a subclass
    overrides what its device does better."""
