"""Pearce and Song 2024 (arXiv 2406.12907): parameters with and without embeddings, and what the count does to a law.

    N_total = N + 47491 N^(1/3),      N without embeddings

(Their fit to Hoffmann's models; width grows about as the cube root of the size.) Counting compute as 6 N D on the
smaller number bends any law at small sizes: the Chinchilla law seen so has an exponent near Kaplan's 0.73 in
Kaplan's range, and its own far above it. Valid: N 1e3 to 1e11, vocabulary of about 32,000.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isoflop.laws.chinchilla import ChinchillaLaw

Real = Any
OMEGA = 47491.0


def total_from_non_embedding(N: Real) -> Real:
    """All parameters of a model with N non-embedding ones."""
    N = np.asarray(N, dtype=float)
    value = N + OMEGA * np.cbrt(N)
    return float(value) if value.ndim == 0 else value


def non_embedding_from_total(N_total: Real) -> Real:
    """The inverse: with z = N^(1/3), z^3 + 47491 z = N_total has one real root (Cardano)."""
    total = np.asarray(N_total, dtype=float)
    half, third = total / 2, OMEGA / 3
    u = np.cbrt(half + np.sqrt(half**2 + third**3))
    z = u - third / u
    # Cardano cancels where the embedding dominates: one Newton step restores the digits.
    z = z - (z**3 + OMEGA * z - total) / (3 * z**2 + OMEGA)
    value = z**3
    return float(value) if value.ndim == 0 else value


def exponent_seen_without_embeddings(law: ChinchillaLaw, N: Real) -> Real:
    """d log N* / d log C when both are counted without embeddings, at non-embedding size N.

    The law holds for all parameters; see `log_compute`, whose inverse slope this is (central difference).
    """
    x = np.log(np.asarray(N, dtype=float))
    h = 1e-4
    compute = [log_compute(law, np.exp(x + shift)) for shift in (-h, h)]
    return 2 * h / (compute[1] - compute[0])


def log_compute(law: ChinchillaLaw, N: Real) -> Real:
    """log C, counted without embeddings, at which N non-embedding parameters are optimal.

    Condition: alpha A N_t^-alpha dlogN_t/dlogN = beta B D^-beta, with N_t all parameters, and C = 6 N D.
    """
    total = total_from_non_embedding(N)
    elasticity = (N + OMEGA / 3 * np.cbrt(N)) / total
    pull = law.alpha * law.A * np.power(total, -law.alpha) * elasticity
    D = np.power(law.beta * law.B / pull, 1 / law.beta)
    return np.log(law.k * N * D)
