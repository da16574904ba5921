"""Resampling plans for a table of runs: what is redrawn, and in which units.

    rows       each run is its own unit (pairs bootstrap: Efron 1979)
    clusters   whole groups of runs are drawn: branches of one trunk, runs of one model size
    residuals  the runs stay where they are; smoothed residuals of the fit are redrawn (Silverman and Young 1987)
    wild       each residual keeps its run and flips its sign, a whole cluster at once (Wu 1986)

A plan yields blocks of weights and targets, so that no matrix of all replicates is ever held. Block k of a
plan depends on (seed, k) alone: the first thousand replicates of four thousand are the same thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Array = np.ndarray
Resample = Literal["rows", "clusters", "residuals", "wild"]
_BLOCK_ELEMENTS = 16384


class Block(NamedTuple):
    """Consecutive replicates: weights and log losses, each [1, n] when shared, else [b, n]."""

    first: int
    num_rows: int
    weights: Array
    targets: Array


@dataclass(frozen=True)
class ResamplePlan:
    """How replicates are drawn."""

    kind: Resample
    log_loss: Array
    """Targets of the fit itself, [n]."""
    fitted: Array
    """log L of the fit, [n]; used by "residuals" and "wild"."""
    clusters: Array | None
    """Group of each run as 0 .. K-1, [n]; None when each run is its own."""
    seed: int
    num_parameters: int = 5

    def blocks(self, num_replicates: int, rows_per_block: int) -> Iterator[Block]:
        """Replicates in order, in blocks of at most `rows_per_block` rows."""
        n = len(self.log_loss)
        unit = max(1, _BLOCK_ELEMENTS // n)
        units_per_block = max(1, rows_per_block // unit)
        for first in range(0, num_replicates, unit * units_per_block):
            count = min(unit * units_per_block, num_replicates - first)
            parts = [
                self._unit(index, unit) for index in range(first // unit, (first + count + unit - 1) // unit)
            ]
            redrawn = (parts[0] if len(parts) == 1 else np.concatenate(parts))[:count]
            for low in range(0, count, rows_per_block):
                yield self._block(first + low, redrawn[low : low + rows_per_block])

    def _block(self, first: int, redrawn: Array) -> Block:
        if self.kind in ("rows", "clusters"):
            return Block(first, len(redrawn), redrawn, self.log_loss[None])
        return Block(first, len(redrawn), np.ones((1, len(self.log_loss))), redrawn)

    def _unit(self, index: int, rows: int) -> Array:
        """Rows `index * rows` onwards: weights, or targets for the residual plans; [rows, n]."""
        rng = np.random.default_rng([self.seed, index])
        n = len(self.log_loss)
        if self.kind == "rows":
            return _counts(rng, rows, n)
        if self.kind == "clusters":
            assert self.clusters is not None
            return _counts(rng, rows, int(self.clusters.max()) + 1)[:, self.clusters]
        residuals = self.log_loss - self.fitted
        if self.kind == "residuals":
            pool, bandwidth = smoothed_residuals(residuals, self.num_parameters)
            redrawn = pool[rng.integers(0, len(pool), size=(rows, n))]
            return self.fitted + redrawn + bandwidth * rng.standard_normal((rows, n))
        inflation = np.sqrt(n / max(n - self.num_parameters, 1))
        codes = np.arange(n) if self.clusters is None else self.clusters
        signs = 2.0 * rng.integers(0, 2, size=(rows, int(codes.max()) + 1)) - 1.0
        return self.fitted + residuals * inflation * signs[:, codes]


def smoothed_residuals(residuals: Array, num_parameters: int) -> tuple[Array, float]:
    """The residuals to draw from, and the bandwidth of the Gaussian kernel that smooths them.

    A robust fit passes through about as many points as it has parameters; these residuals are zero by
    construction and say nothing about the noise, so as many of the smallest are left out. Without smoothing,
    the lumps of a small sample make intervals of a median-like estimator too narrow. Bandwidth: Silverman's
    0.9 s n^(-1/5) with s from the median absolute residual (Silverman 1986, equation 3.31).
    """
    n = len(residuals)
    pool = residuals[np.argsort(np.abs(residuals))[min(num_parameters, n - 2) :]]
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    return pool, 0.9 * spread * n**-0.2


def _counts(rng: np.random.Generator, rows: int, n: int) -> Array:
    """How often each of n units is drawn in n draws with replacement, for each row; [rows, n] floats."""
    drawn = rng.integers(0, n, size=(rows, n))
    drawn += n * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


@dataclass(frozen=True)
class GivenWeights:
    """Replicates whose weights the caller brings, [B, n]: another program's resamples, a jackknife."""

    weights: Array
    log_loss: Array

    def blocks(self, num_replicates: int, rows_per_block: int) -> Iterator[Block]:
        for first in range(0, num_replicates, rows_per_block):
            part = np.asarray(self.weights[first : first + rows_per_block], dtype=float)
            yield Block(first, len(part), part, self.log_loss[None])
