"""Marks of tests that need what not every processor has."""

from __future__ import annotations

import pytest

from psdp.backend.cpu.compiled import SUPPORT, bf16_here

needs_avx512 = pytest.mark.skipif(SUPPORT == 0, reason="this processor has no AVX-512")
needs_bf16 = pytest.mark.skipif(not bf16_here(), reason="this processor has no AVX512-BF16")
