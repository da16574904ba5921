"""Regenerate the bootstrap draws that ship with the package, from the public points.

    python benchmarks/ship_draws.py TABLE.csv

TABLE is `svg_extracted_data.csv` of github.com/epoch-research/analyzing-chinchilla (columns `Model Size`,
`Training FLOP`, `loss`). Writes src/isoflop/laws/draws/besiroglu.npz: `draws` [4000, 5] single precision and
`point` [5], both (E, A, B, alpha, beta). The resamples are those of the published notebook (NumPy's legacy
generator, seed 42; the five highest losses left out), the optimiser is ours, and nothing is written unless every
replicate is certified.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from isoflop.fit.law.parametric import LawFit, fit_law
from isoflop.fit.tables.runs import read_runs

TARGET = Path(__file__).resolve().parent.parent / "src" / "isoflop" / "laws" / "draws" / "besiroglu.npz"


def refit(table: Path, num_replicates: int = 4000) -> LawFit:
    """The fit whose draws ship."""
    runs = read_runs(table)
    n = runs.rows_used - 5
    generator = np.random.RandomState(42)
    weights = np.stack([
        np.bincount(generator.choice(n, n, replace=True), minlength=n) for _ in range(num_replicates)
    ])  # fmt: skip
    return fit_law(runs.N, runs.D, runs.loss, drop_highest_loss=5, weights=weights, multistart=500)


def main() -> int:
    fit = refit(Path(sys.argv[1]))
    if fit.certified_share != 1.0 or fit.audit.misses:
        print(f"not written: certified {fit.certified_share:.2%}, {fit.audit.misses} misses")
        return 1
    law = fit.law
    point = np.array([law.E, law.A, law.B, law.alpha, law.beta])
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, draws=fit.draws.astype(np.float32), point=point)
    print(f"{TARGET.name}: {len(fit.draws)} draws, {TARGET.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
