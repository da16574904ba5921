"""Rules for learning rate and batch size by model size. Starting points for a search, not results of one.

    Porian et al. 2024 (arXiv 2406.19146), as used in OLMo-core:
        batch = 2048 x 160 tokens (N / 1.08e8)^(2/3),   rate = 0.0047 (N / 1.08e8)^(-1/3)
    Kaplan et al. 2020 (arXiv 2001.08361), appendix D.6 and equation 5.3:
        rate = 0.003239 - 0.0001395 ln N,   critical batch = 2e8 tokens / L^(1/0.21)

DeepSeek's rules are in `deepseek`. N counts parameters without embeddings for Kaplan; Porian's 1.08e8 is a size
of their grid. Valid: Porian N 5M to 900M, AdamW with beta2 tuned; Kaplan N below 1.5B. OLMo halves Porian's rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Real = Any

REFERENCE_SIZE = 1.08e8


def porian_batch_tokens(N: Real) -> Real:
    """Tokens per optimizer step for N parameters."""
    return 2048 * 160 * np.power(np.asarray(N, dtype=float) / REFERENCE_SIZE, 2 / 3)


def porian_learning_rate(N: Real) -> Real:
    """Peak learning rate for N parameters."""
    return 0.0047 * np.power(np.asarray(N, dtype=float) / REFERENCE_SIZE, -1 / 3)


def kaplan_learning_rate(N: Real) -> Real:
    """Peak learning rate for N non-embedding parameters; falls to zero near 1.2e10, so only for N < 1.5e9."""
    if np.any(np.asarray(N) > 1.5e9):
        raise ValueError(f"N is {N}: Kaplan's rule was fitted below 1.5e9 parameters; take another rule")
    return 0.003239 - 0.0001395 * np.log(N)


def kaplan_critical_batch(loss: Real) -> Real:
    """Tokens per step beyond which larger batches bring little, at this loss in nats per token."""
    return 2e8 / np.power(loss, 1 / 0.21)
