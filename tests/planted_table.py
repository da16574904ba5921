"""Tables of runs from a planted law, as a user would have them on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoflop.laws.chinchilla import BESIROGLU

BUDGETS = (1e18, 1e19, 1e20, 1e21)
SIZES = 8
"""Sizes at each budget."""


def runs(noise: float = 0.004, seed: int = 0) -> np.ndarray:
    """N, D, loss of runs around the optimum of each budget, with Gaussian noise on the log loss; [32, 3]."""
    rng = np.random.default_rng(seed)
    N = np.concatenate([BESIROGLU.optimum(C).N * np.geomspace(0.15, 6, SIZES) for C in BUDGETS])
    D = np.repeat(BUDGETS, SIZES) / (6 * N)
    loss = BESIROGLU.loss(N, D) * np.exp(noise * rng.standard_normal(len(N)))
    return np.stack([N, D, loss], axis=1)


def runs_table(path: Path, header: tuple[str, str, str] = ("params", "tokens", "val_loss")) -> Path:
    """Write such a table as CSV."""
    rows = [",".join(f"{value:.9g}" for value in row) for row in runs()]
    path.write_text("\n".join([",".join(header), *rows]) + "\n")
    return path
