"""Hoffmann et al. 2022 (Chinchilla, arXiv 2203.15556): three approaches to one question.

Approach 1 takes the lower envelope of training curves, approach 2 the minima of isoFLOP parabolas, approach 3
fits L(N, D) (`chinchilla.HOFFMANN`, unrounded, and `HOFFMANN_ROUNDED`). Approaches 1 and 2 are published as
exponents with a table of pairs; each is the line of the printed exponent through the pair of that table next to
the paper's own budget (table 3, and table A3).

Valid: N 70M to 16B, D 5B to 500B tokens, C up to 1e22 FLOPs; N and C count all parameters. Beyond, the three
part ways: approach 3 asks for a smaller model than the others at large budgets, which Besiroglu et al. 2024
trace to an optimiser that stopped early.
"""

from __future__ import annotations

from isoflop.laws.chinchilla import HOFFMANN, HOFFMANN_ROUNDED
from isoflop.laws.power import PowerAllocation

__all__ = ["APPROACH_1", "APPROACH_2", "APPROACH_3", "APPROACH_3_PRINTED", "EXPONENTS"]

EXPONENTS = {1: (0.50, 0.50), 2: (0.49, 0.51), 3: (0.46, 0.54)}
"""Printed (a, b) of each approach (table 2)."""

APPROACH_1 = PowerAllocation.through(C=5.76e23, N=67e9, a=0.50)
APPROACH_2 = PowerAllocation.through(C=6.88e23, N=67e9, a=0.49)
APPROACH_3 = HOFFMANN
APPROACH_3_PRINTED = HOFFMANN_ROUNDED
