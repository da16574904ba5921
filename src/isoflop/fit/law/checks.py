"""What a table of runs cannot tell, said before a fit is tried, and the remedy.

Refusals are for tables whose best fit would be an accident: too few rows, one size, one number of tokens,
tokens tied to size, two loss scales in one column. Notes are for tables that can be fitted but carry a
parameter badly. Nothing here looks at a fitted law.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Array = np.ndarray
MIN_ROWS = 6
NARROW = 1.5
WIDE_ENOUGH = 10.0
SAME_LOSS = 1e-9
"""Spread of the log loss that is rounding."""
MAX_SEARCHED = 5_000
"""Up to this many runs a second loss scale is also looked for from some size or budget on."""
_CUTS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)


class LawFitError(ValueError):
    """The table cannot carry the law; the message says why and what would help."""


def check_table(N: Array, D: Array, loss: Array) -> tuple[str, ...]:
    """Refuse a table that cannot be fitted; return notes on what it carries badly.

    Args:
        N: parameters of each run, [n]. D: training tokens, [n]. loss: nats per token, [n].

    Raises:
        LawFitError: with the reason and the remedy in one sentence.
    """
    for name, values in (("N", N), ("D", D), ("loss", loss)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise LawFitError(
                f"{name} of row {bad[0]} is {values[bad[0]]:g}: it must be a positive finite number; "
                "leave the row out, or give its reason for exclusion in the table"
            )
    if not len(N) == len(D) == len(loss):
        raise LawFitError(
            f"N, D and loss differ in length ({len(N)}, {len(D)}, {len(loss)}): one entry per run"
        )
    distinct = len(np.unique(np.stack([N, D]), axis=1).T)
    if distinct < MIN_ROWS:
        raise LawFitError(
            f"{distinct} distinct runs (N, D) for the 5 parameters of the law: at least {MIN_ROWS} are needed, "
            "20 or more give usable intervals; add runs, or fix a published law's exponents"
        )
    _check_spread(N, D)
    if np.ptp(np.log(loss)) < SAME_LOSS:
        raise LawFitError(
            f"all runs have the same loss ({loss[0]:g}): nothing depends on N or D here; check that the column holds "
            "the final loss of each run"
        )
    _check_scales(N, D, loss)
    return _notes(N, D, loss)


def _levels(values: Array) -> int:
    """Number of distinct values when those within 2 per cent of each other are taken as one."""
    logs = np.log(values)
    return len(np.unique(np.floor((logs - logs.min()) / 0.02)))


def _check_spread(N: Array, D: Array) -> None:
    for name, word, values in (("N", "parameters", N), ("D", "tokens", D)):
        exponent = "alpha" if name == "N" else "beta"
        levels, span = _levels(values), float(values.max() / values.min())
        if levels == 1:
            raise LawFitError(
                f"all runs have the same {name} ({values[0]:.3g} {word}): {exponent} cannot be told from the "
                f"floor E; add runs at other {name}, at least 3 values over a factor of 10"
            )
        if levels < 3 or span < NARROW:
            raise LawFitError(
                f"{name} takes {levels} distinct values over a factor of {span:.2g}: too narrow to tell "
                f"{exponent} from the floor E; add runs, at least 3 values of {name} over a factor of 10"
            )
    x, y = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean()
    slope = float(x @ y / (x @ x))
    if np.std(y - slope * x) < 0.05:
        rule = (
            "D/N is the same for all runs" if abs(slope - 1) < 0.1 else f"D is proportional to N^{slope:.2g}"
        )
        raise LawFitError(
            f"{rule}: the size and the data term cannot be told apart; add runs that break the rule, for "
            "example each size also at a quarter and at four times its tokens"
        )


def _trend(N: Array, D: Array) -> Array:
    """Columns of a smooth trend in standardised log N and log D, [n, 3 or 6]."""
    x, y = np.log(N), np.log(D)
    x, y = (x - x.mean()) / np.std(x), (y - y.mean()) / np.std(y)
    columns = [np.ones_like(x), x, y] + ([x * x, y * y, x * y] if len(x) >= 18 else [])
    return np.stack(columns, axis=1)


def _two_parallel_trends(design: Array, t: Array, high: Array) -> tuple[Array, float, Array]:
    """Two copies of one trend a constant apart: which runs lie on the upper one, the constant, residuals.

    Alternates between fitting with the present membership and moving each run to the nearer copy.
    """
    for _ in range(20):
        columns = np.concatenate([design, high[:, None].astype(float)], axis=1)
        solution = np.linalg.lstsq(columns, t, rcond=None)[0]
        base, offset = t - design @ solution[:-1], float(solution[-1])
        nearer = np.abs(base - offset) < np.abs(base)
        if (nearer == high).all():
            break
        high = nearer
    return high, offset, base - offset * high


def _memberships(N: Array, D: Array, t: Array, design: Array) -> Iterator[Array]:
    """Where to look for a second scale: above the common trend, and from some size, tokens or budget on.

    A unit that changed along the way (the larger runs in bits) bends the common trend instead of splitting it.
    """
    yield t - design @ np.linalg.lstsq(design, t, rcond=None)[0] > 0
    if len(t) > MAX_SEARCHED:
        return
    for values in (N * D, N, D):
        for cut in np.quantile(values, _CUTS):
            high = values > cut * (1 + 1e-9)
            columns = np.concatenate([design, high[:, None].astype(float)], axis=1)
            if 3 <= high.sum() <= len(t) - 3 and abs(np.linalg.lstsq(columns, t, rcond=None)[0][-1]) > 0.1:
                yield high


def _check_scales(N: Array, D: Array, loss: Array) -> None:
    """Two parallel trends, far apart and each tight: two units of loss in one column."""
    if np.max(loss) > 13.0:
        raise LawFitError(
            f"loss reaches {np.max(loss):.3g}, above the log of any vocabulary in use: this looks like "
            "perplexity, or like a mixture with it; give nats per token (log of the perplexity)"
        )
    n = len(loss)
    if n < 12:
        return
    t, design = np.log(loss), _trend(N, D)
    high, offset, rest = min(
        (_two_parallel_trends(design, t, start) for start in _memberships(N, D, t, design)),
        key=lambda found: float(np.std(found[2])),
    )
    count, separation, within = int(high.sum()), abs(offset), float(np.std(rest))
    if min(count, n - count) < max(3, n // 20) or separation < 0.2 or separation < 6 * within:
        return
    factor = float(np.exp(separation))
    raise LawFitError(
        f"two loss scales: {n - count} and {count} runs lie a factor of {factor:.2f} apart at equal N and D "
        f"({_likely_scales(factor)}); convert to one unit, or fit the groups one by one"
    )


def _likely_scales(factor: float) -> str:
    if abs(factor - 1 / np.log(2)) < 0.06:
        return "nats and bits differ by 1.44"
    return "nats per token, bits per byte, perplexity, or two validation sets"


def _notes(N: Array, D: Array, loss: Array) -> tuple[str, ...]:
    notes = []
    for name, values in (("N", N), ("D", D)):
        span = float(values.max() / values.min())
        if span < WIDE_ENOUGH:
            notes.append(
                f"{name} spans a factor of {span:.2g} only: its exponent rests on little; "
                f"runs over a factor of {WIDE_ENOUGH:g} or more would settle it"
            )
    if len(N) < 20:
        notes.append(f"{len(N)} runs for 5 parameters: intervals are rough, and depend on single runs")
    return tuple(notes)
