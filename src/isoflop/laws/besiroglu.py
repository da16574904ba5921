"""Besiroglu, Erdil, Barnett and You 2024 (arXiv 2404.10102): Hoffmann's points, read off the figure and refitted.

`PUBLISHED` is the paper's table 1: the estimate that maximises a likelihood with free scale, which comes down
to least absolute deviations. `refit()` is the optimum of what its method section describes (Huber with
delta = 1e-3 on the log loss, 240 points), and `draws()` the 4000 bootstrap draws around it, computed by
`benchmarks/ship_draws.py` with the notebook's own resamples; every draw is certified to be at its optimum.

Valid: N 57M to 16B, C 1.4e18 to 1.3e22 FLOPs. Parameters count everything, D = C / (6 N).
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from io import BytesIO

import numpy as np

from isoflop.laws.chinchilla import BESIROGLU, ChinchillaLaw

PUBLISHED = BESIROGLU

STANDARD_ERRORS = {"E": 0.026, "A": 124.5, "B": 1293.0, "alpha": 0.015, "beta": 0.021}
"""As published; they belong to the bootstrap with delta = 1e-3, so to `refit()`."""


@cache
def _shipped() -> tuple[np.ndarray, np.ndarray]:
    content = resources.files("isoflop.laws").joinpath("draws", "besiroglu.npz").read_bytes()
    with np.load(BytesIO(content)) as file:
        return file["draws"].astype(float), file["point"]


def draws() -> ChinchillaLaw:
    """The bootstrap draws as one law with arrays [4000]."""
    E, A, B, alpha, beta = _shipped()[0].T
    return ChinchillaLaw(E, A, B, alpha, beta)


def refit() -> ChinchillaLaw:
    """The optimum that the draws surround."""
    E, A, B, alpha, beta = _shipped()[1].tolist()
    return ChinchillaLaw(E, A, B, alpha, beta)
