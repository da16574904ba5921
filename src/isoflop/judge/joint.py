"""Several causes at once: a score as a sum of straight lines in the logarithms of what was scaled.

Least squares on a chosen scale of the score (linear or logit), with or without products of the causes, and
a prediction outside the data with two intervals: of the fitted mean, and of a new run. Says when a cause
was varied at too few values, or only together with another, to be told apart. Left out: curved laws in each
cause (`isoflop.judge.curves`), and causal claims.

Shape letters: n runs, K causes, p coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop.laws.curves import CurveError

Array = NDArray[np.float64]
Scale = Literal["linear", "logit"]


@dataclass(frozen=True)
class Coefficient:
    """Change of the score (on its scale) per decade of a cause, with its interval."""

    name: str
    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Predicted:
    """A prediction on the scale of the score itself."""

    value: float
    mean_lo: float
    mean_hi: float
    """Interval of the fitted mean."""
    run_lo: float
    run_hi: float
    """Interval of one new run."""
    decades_beyond: dict[str, float]
    """How far each cause lies beyond the largest value in the data, in decades; 0 inside."""


@dataclass(frozen=True)
class JointFit:
    """A linear fit in log10 of the causes."""

    causes: tuple[str, ...]
    scale: Scale
    interactions: tuple[tuple[str, str], ...]
    coefficients: tuple[Coefficient, ...]
    """Intercept first; then causes, then products, all about the mean of each log10 cause."""
    r2: float
    num_runs: int
    residual_sd: float
    warnings: tuple[str, ...]
    centre: Array
    """[K] mean log10 of each cause."""
    highest: Array
    """[K] largest log10 of each cause."""
    inverse_gram: Array
    """[p, p]"""
    level: float

    def coefficient(self, name: str) -> Coefficient:
        """By name of a cause, "a x b" for a product, or "intercept". Raises KeyError."""
        for found in self.coefficients:
            if found.name == name:
                return found
        raise KeyError(name)

    def predict(self, at: Mapping[str, float]) -> Predicted:
        """The score at these values of the causes."""
        from scipy.stats import t

        logs = np.log10([at[name] for name in self.causes])
        row = _design((logs - self.centre)[None], self.causes, self.interactions)[0]
        value = float(row @ np.array([c.value for c in self.coefficients]))
        reach = float(t.ppf((1 + self.level) / 2, self.num_runs - len(row)))
        leverage = float(row @ self.inverse_gram @ row)
        mean, run = (reach * self.residual_sd * np.sqrt(v) for v in (leverage, 1 + leverage))
        ends = [value, value - mean, value + mean, value - run, value + run]
        back = [float(end) for end in _backward(np.array(ends), self.scale)]
        beyond = {n: float(max(v - h, 0.0)) for n, v, h in zip(self.causes, logs, self.highest, strict=True)}
        return Predicted(back[0], back[1], back[2], back[3], back[4], decades_beyond=beyond)


def fit_joint(
    causes: Mapping[str, ArrayLike],
    score: ArrayLike,
    *,
    scale: Scale = "linear",
    interactions: Sequence[tuple[str, str]] = (),
    level: float = 0.95,
) -> JointFit:
    """Least squares of a score on log10 of several causes.

    Args:
        causes: name -> [n] values > 0.
        score: [n]; strictly between 0 and 1 for the logit scale.
        scale: on which the score is a sum.
        interactions: pairs of causes whose product is a term of its own.
        level: of all intervals (t, residual degrees of freedom).

    Raises:
        CurveError: values that are not positive, unequal lengths, fewer runs than coefficients, or causes
            that were only varied together.
    """
    from scipy.stats import t

    logs, y = _checked(causes, score, scale)
    centre = logs.mean(axis=0)
    design = _design(logs - centre, tuple(causes), interactions)
    num_runs, num_p = design.shape
    if num_runs <= num_p:
        raise CurveError(f"{num_p} coefficients need more than {num_p} runs, there are {num_runs}")
    if np.linalg.matrix_rank(design) < num_p:
        raise CurveError(
            "some causes were only varied together, so their effects cannot be told apart: vary one alone"
        )
    v = _forward(y, scale)
    inverse: Array = np.asarray(np.linalg.inv(design.T @ design), dtype=np.float64)
    beta = inverse @ design.T @ v
    residual = v - design @ beta
    sd = float(np.sqrt(residual @ residual / (num_runs - num_p)))
    half = t.ppf((1 + level) / 2, num_runs - num_p) * sd * np.sqrt(np.diag(inverse))
    names = ("intercept", *causes, *(f"{a} x {b}" for a, b in interactions))
    coefficients = tuple(
        Coefficient(name, float(b), float(b - h), float(b + h))
        for name, b, h in zip(names, beta, half, strict=True)
    )
    r2 = float(1 - residual @ residual / np.sum((v - v.mean()) ** 2))
    return JointFit(
        tuple(causes), scale, tuple(interactions), coefficients, r2, num_runs, sd, identifiability(causes), centre,
        logs.max(axis=0), inverse, level,
    )  # fmt: skip


def identifiability(causes: Mapping[str, ArrayLike]) -> tuple[str, ...]:
    """What the design of the runs cannot tell: causes at few values, or varied at few values of another."""
    found = []
    arrays = {name: np.asarray(values, dtype=float) for name, values in causes.items()}
    for name, values in arrays.items():
        levels = np.unique(values)
        if len(levels) < 4:
            found.append(f"{name} has {len(levels)} values: whether its effect is straight cannot be seen")
        for other, theirs in arrays.items():
            if other == name:
                continue
            varied = [level for level in np.unique(theirs) if len(np.unique(values[theirs == level])) > 1]
            if len(levels) > 1 and len(varied) == 1 and len(np.unique(theirs)) > 1:
                where = f"{other} = {varied[0]:.3g}"
                found.append(f"{name} was varied at {where} alone: its effect elsewhere is assumed")
    return tuple(found)


def _checked(causes: Mapping[str, ArrayLike], score: ArrayLike, scale: Scale) -> tuple[Array, Array]:
    y = np.asarray(score, dtype=float)
    columns = []
    for name, values in causes.items():
        column = np.asarray(values, dtype=float)
        if column.shape != y.shape:
            raise CurveError(f"{name} has {column.size} values for {y.size} scores")
        if np.any(~(column > 0)):
            raise CurveError(f"{name} must be positive to be put on a log axis")
        columns.append(np.log10(column))
    if scale == "logit" and np.any((y <= 0) | (y >= 1)):
        raise CurveError("the logit scale needs scores strictly between 0 and 1")
    return np.stack(columns, axis=1), y


def _design(centred: Array, causes: Sequence[str], interactions: Sequence[tuple[str, str]]) -> Array:
    place = {name: index for index, name in enumerate(causes)}
    unknown = {name for pair in interactions for name in pair} - set(place)
    if unknown:
        raise CurveError(f"no cause named {', '.join(sorted(unknown))}; there are {', '.join(causes)}")
    products = [centred[:, place[a]] * centred[:, place[b]] for a, b in interactions]
    return np.stack([np.ones(len(centred)), *centred.T, *products], axis=1)


def _forward(y: Array, scale: Scale) -> Array:
    return np.log(y / (1 - y)) if scale == "logit" else y


def _backward(v: Array, scale: Scale) -> Array:
    return 1 / (1 + np.exp(-np.clip(v, -700, 700))) if scale == "logit" else v


def minimum_norm(
    causes: Mapping[str, ArrayLike],
    score: ArrayLike,
    at: Mapping[str, float],
    interactions: Sequence[tuple[str, str]],
    origin: Mapping[str, float],
) -> tuple[float, int]:
    """A prediction where the runs do not hold every product: the least squares fit of smallest norm.

    The fit to the data is the same for every origin of the logarithms; the prediction is not, and that
    difference is what the missing runs leave open. Returns the prediction on the score's own scale and how many
    coefficients are not identified (0: the prediction does not depend on the origin).

    Args:
        causes, score, interactions: as in `fit_joint`, on the linear scale.
        at: where to predict.
        origin: value of each cause at which its logarithm counts as 0.
    """
    logs, y = _checked(causes, score, "linear")
    names = tuple(causes)
    zero = np.log10([origin[name] for name in names])
    design = _design(logs - zero, names, interactions)
    row = _design((np.log10([at[name] for name in names]) - zero)[None], names, interactions)[0]
    beta, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(row @ beta), design.shape[1] - int(rank)


def resampled(
    causes: Mapping[str, ArrayLike],
    score: ArrayLike,
    at: Mapping[str, float],
    *,
    level: float = 0.95,
    num_resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the fitted mean by resampling runs (Efron 1979), on the linear scale."""
    logs, y = _checked(causes, score, "linear")
    design = _design(logs, tuple(causes), ())
    row = _design(np.log10([[at[name] for name in causes]]), tuple(causes), ())[0]
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(y), size=(num_resamples, len(y)))
    picked = design[index]
    gram = np.matmul(np.swapaxes(picked, 1, 2), picked)
    right = np.matmul(np.swapaxes(picked, 1, 2), y[index][..., None])
    values = np.linalg.solve(gram, right)[..., 0] @ row
    lo, hi = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)
