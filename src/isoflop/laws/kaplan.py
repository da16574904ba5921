"""Kaplan et al. 2020 (arXiv 2001.08361): the laws that asked for large models on little data.

N counts parameters without embeddings, C = 6 N D on that count, in PF-days where the paper does. Valid: N 768
to 1.5e9, D 22M to 23B tokens, WebText2. Largely superseded: the exponent 0.73 comes from counting without
embeddings at small sizes and from schedules that did not match the run (Pearce and Song 2024, Porian et al.
2024; see `pearce_song`).

Left out: the laws of training steps (section 5).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isoflop.laws.power import Allocation

Real = Any

PF_DAY = 8.64e19
"""FLOPs: 1e15 per second for a day."""

N_C, ALPHA_N = 8.8e13, 0.076
D_C, ALPHA_D = 5.4e13, 0.095
C_C, ALPHA_C = 3.1e8, 0.050
"""Equations 1.1 to 1.3; C in PF-days."""
JOINT_N_C, JOINT_D_C, JOINT_ALPHA_N, JOINT_ALPHA_D = 6.4e13, 1.8e13, 0.076, 0.103
"""Table 2: the joint law."""


def loss_of_size(N: Real) -> Real:
    """L(N), data and compute without limit: (8.8e13 / N)^0.076 (equation 1.1)."""
    return (N_C / N) ** ALPHA_N


def loss_of_data(D: Real) -> Real:
    """L(D), size without limit, stopped early: (5.4e13 / D)^0.095 (equation 1.2)."""
    return (D_C / D) ** ALPHA_D


def loss_of_compute(C: Real) -> Real:
    """L(C_min) at the optimal allocation, C in FLOPs: (3.1e8 PF-days / C)^0.050 (equation 1.3)."""
    return (C_C * PF_DAY / C) ** ALPHA_C


class KaplanLaw:
    """The joint law L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D (equation 1.5)."""

    k = 6.0

    def loss(self, N: Real, D: Real) -> Real:
        """Nats per token of N non-embedding parameters trained on D tokens."""
        size = np.power(JOINT_N_C / np.asarray(N, dtype=float), JOINT_ALPHA_N / JOINT_ALPHA_D)
        value = np.power(size + JOINT_D_C / np.asarray(D, dtype=float), JOINT_ALPHA_D)
        return float(value) if value.ndim == 0 else value

    def optimum(self, C: Real) -> Allocation:
        """The published allocation, C in FLOPs: N* = 1.3e9 C^0.73, D* = 2e10 C^0.27 (C in PF-days; equation 1.7)."""
        days = np.asarray(C, dtype=float) / PF_DAY
        return Allocation(*(_plain(value) for value in (1.3e9 * days**0.73, 2e10 * days**0.27)))

    def optimum_of_surface(self, C: Real) -> Allocation:
        """Where the joint law itself is lowest along C = 6 N D: N^(1+g) = g N_c^g C / (6 D_c), g = alpha_N/alpha_D.

        Its exponent 1/(1+g) = 0.575 is not the published 0.73, which also extrapolates steps and batch size.
        """
        g = JOINT_ALPHA_N / JOINT_ALPHA_D
        C = np.asarray(C, dtype=float)
        N = np.exp((np.log(g * C / (self.k * JOINT_D_C)) + g * np.log(JOINT_N_C)) / (1 + g))
        return Allocation(_plain(N), _plain(C / (self.k * N)))


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
