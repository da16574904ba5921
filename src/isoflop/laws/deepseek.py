"""DeepSeek-AI 2024 (DeepSeek LLM, arXiv 2401.02954): allocation and hyperparameters as powers of compute.

C = M D, where M counts the FLOPs per token without embedding (so that attention is in it, and no factor 6).
    M* = 0.1715 C^0.5243      D* = 5.8316 C^0.4757
    batch* = 0.2920 C^0.3271 tokens      learning rate* = 0.3118 C^-0.1250

Valid: C 1e17 to 2e19 for batch and rate, 1e17 to 3e20 for the allocation. The exponents depend on the data:
(a, b) is (0.450, 0.550) on the authors' early mixture, (0.524, 0.476) on the current one, (0.578, 0.422) on
OpenWebText2 (section 3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Real = Any

EXPONENTS_BY_DATA = {"early": (0.450, 0.550), "current": (0.524, 0.476), "openwebtext2": (0.578, 0.422)}


class DeepSeekOptimum(NamedTuple):
    """What C FLOPs should buy."""

    flops_per_token: Real
    """M*, training FLOPs per token without embeddings."""
    D: Real


class DeepSeekLaw:
    """Allocation in FLOPs per token, not in parameters: there is no N to read off without a net."""

    def optimum(self, C: Real) -> DeepSeekOptimum:
        """FLOPs per token and tokens at C = M D FLOPs (section 3.2)."""
        return DeepSeekOptimum(0.1715 * np.power(C, 0.5243), 5.8316 * np.power(C, 0.4757))

    def batch_tokens(self, C: Real) -> Real:
        """Tokens per optimizer step (section 3.1)."""
        return 0.2920 * np.power(C, 0.3271)

    def learning_rate(self, C: Real) -> Real:
        """Peak learning rate of AdamW with the authors' multi-step schedule (section 3.1)."""
        return 0.3118 * np.power(C, -0.1250)
