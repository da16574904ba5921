"""How much noise can a design see through: power, seeds per arm, smallest effect that shows, looks.

Everything here is for a two-sided test at level `alpha` with Gaussian errors. `effect` and `sd` share a
unit (nats, points of accuracy); only their ratio matters. Left out: where the noise comes from (see
`seed_noise`) and stopping early (see `sequential`, which `plan_looks` calls).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from isoflop.fit.compare import sequential


@dataclass(frozen=True, kw_only=True)
class SeedsNeeded:
    """Seeds per arm for a wanted power, and what that number really gives."""

    seeds: int | None
    """Per arm (pairs for a paired design); None when more than the limit would be needed, see `reason`."""
    power: float | None
    """Power reached with that many seeds, in (0, 1)."""
    effect: float
    sd: float
    alpha: float
    reason: str | None = None


def two_sided_power(drift: float, alpha: float = 0.05, df: float | None = None) -> float:
    """Chance that a two-sided test rejects.

    Args:
        drift: true difference in standard errors of the estimated difference.
        alpha: level, in (0, 1).
        df: degrees of freedom of the standard error; None means that it is known (normal test).

    The t test's power is a tail of the noncentral t distribution (Lehmann and Romano 2005, section 5.3),
    here as a normal power averaged over the estimated noise: the integral over log s^2 by the trapezoidal
    rule, which converges exponentially for this density and stays exact for one degree of freedom too.
    """
    from scipy import special

    _check_share("alpha", alpha)
    if df is None:
        critical = special.ndtri(alpha / 2)
        return float(special.ndtr(critical + drift) + special.ndtr(critical - drift))
    if df <= 0:
        raise ValueError(f"df is {df}; a t test needs at least one degree of freedom (two seeds)")
    critical = -special.stdtrit(df, alpha / 2)
    reach = 76.0 / df  # where the density has fallen to exp(-38) of its peak
    log_square = np.linspace(-reach - math.sqrt(2 * reach), math.log1p(reach + math.sqrt(2 * reach)), 800)
    weight = np.exp(df / 2 * (log_square - np.expm1(log_square)))
    noise = np.exp(log_square / 2)
    tails = special.ndtr(drift - critical * noise) + special.ndtr(-drift - critical * noise)
    return float(weight @ tails / weight.sum())


def detectable_drift(power: float = 0.8, alpha: float = 0.05, df: float | None = None) -> float:
    """True difference, in standard errors, that a two-sided test finds with the given power."""
    from scipy import optimize

    _check_share("power", power)
    if power <= alpha:
        raise ValueError(f"power {power} is not above the level {alpha}; ask for more, for example 0.8")
    top = 10.0
    while two_sided_power(top, alpha, df) < power:
        top *= 2.0
    return float(optimize.brentq(lambda drift: two_sided_power(drift, alpha, df) - power, 0.0, top))


def detectable_difference(
    standard_error: float, *, df: float | None = None, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest true difference found with the given power, in the unit of the standard error."""
    if not standard_error > 0:
        raise ValueError(f"standard error is {standard_error}; it must be positive")
    return detectable_drift(power, alpha, df) * standard_error


def seeds_power(
    effect: float,
    sd: float,
    seeds: int,
    *,
    alpha: float = 0.05,
    correlation: float | None = None,
    noise_df: float | None = None,
) -> float:
    """Power of a comparison of two arms with `seeds` runs each.

    Args:
        effect: true difference of the arms' means.
        sd: standard deviation of one run around its arm's mean.
        seeds: runs per arm.
        alpha: level.
        correlation: None for independent arms. A number for arms that share seeds pairwise: correlation of
            a pair, which lowers the variance of a difference to 2 (1 - correlation) sd^2.
        noise_df: degrees of freedom of an sd that was learned elsewhere (`math.inf` for a known one);
            None estimates it from these very runs.
    """
    error = _standard_error(sd, seeds, correlation)
    df = noise_df
    if df is None:
        df = float(seeds - 1 if correlation is not None else 2 * (seeds - 1))
        if df == 0:
            return alpha  # one seed per arm and no known noise: the data say nothing
    return two_sided_power(abs(effect) / error, alpha, None if math.isinf(df) else df)


def seeds_needed(
    effect: float,
    sd: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float | None = None,
    noise_df: float | None = None,
    limit: int = 100_000,
) -> SeedsNeeded:
    """Fewest seeds per arm that reach `power`; arguments as for `seeds_power`.

    Raises:
        ValueError: an effect of zero, which no number of seeds can find.
    """
    if effect == 0:
        raise ValueError("an effect of 0 is never found; name the smallest effect that would matter")
    _check_share("power", power)
    if power <= alpha:
        raise ValueError(f"power {power} is not above the level {alpha}; ask for more, for example 0.8")

    def reached(seeds: int) -> float:
        return seeds_power(effect, sd, seeds, alpha=alpha, correlation=correlation, noise_df=noise_df)

    high = 1
    while reached(high) < power:
        high *= 2
        if high > limit:
            reason = f"more than {limit} seeds per arm: the effect is {abs(effect) / sd:.2g} of the noise"
            return SeedsNeeded(seeds=None, power=None, effect=effect, sd=sd, alpha=alpha, reason=reason)
    low = high // 2  # power grows with seeds, so bisect between a too small and a sufficient number
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reached(middle) < power else (low, middle)
    return SeedsNeeded(seeds=high, power=reached(high), effect=effect, sd=sd, alpha=alpha)


def detectable_effect(
    sd: float,
    seeds: int,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float | None = None,
    noise_df: float | None = None,
) -> float | None:
    """Smallest true difference that `seeds` runs per arm find with `power`; None with one seed and no noise.

    Arguments as for `seeds_power`.
    """
    error = _standard_error(sd, seeds, correlation)
    df = noise_df
    if df is None:
        df = float(seeds - 1 if correlation is not None else 2 * (seeds - 1))
        if df == 0:
            return None
    return detectable_difference(error, df=None if math.isinf(df) else df, power=power, alpha=alpha)


def items_needed(
    difference: float,
    *,
    base: float,
    discordance: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Benchmark items needed to see a difference between two accuracies.

    Args:
        difference: in (0, 1), as a share.
        base: accuracy of one of the two, in (0, 1).
        discordance: share of items that change (right to wrong or back) when both are scored on the same
            items; None for different items. It is at least the difference itself.

    The usual normal formula; the paired one is Connor (1987) in its null-variance form.
    """
    _check_share("difference", difference)
    _check_share("base", base)
    drift = detectable_drift(power, alpha)
    if discordance is None:
        mean = min(max(base + difference / 2, 1e-9), 1 - 1e-9)
        variance = 2 * mean * (1 - mean)
    else:
        if not difference <= discordance <= 1:
            raise ValueError(f"discordance {discordance} must lie between the difference {difference} and 1")
        variance = discordance
    return math.ceil(variance * (drift / difference) ** 2)


def plan_looks(
    effect: float,
    sd: float,
    *,
    num_looks: int = 4,
    power: float = 0.8,
    alpha: float = 0.05,
    noise_df: float | None = None,
    shape: sequential.Shape = "obrien-fleming",
    futility: float | None = 0.2,
    max_seeds: int = 4096,
) -> sequential.GroupSequentialPlan:
    """Looks and boundaries of a group-sequential comparison that reaches `power` at its last look.

    The maximum is the smallest one whose power, found by the same recursion as the boundaries, is enough.
    Looks are spread evenly; a look at fewer than two seeds per arm is left out when the noise has to be
    estimated from the runs themselves.

    Raises:
        ValueError: more than `max_seeds` seeds per arm would be needed.
    """
    first = seeds_needed(effect, sd, power=power, alpha=alpha, noise_df=noise_df, limit=max_seeds)
    if first.seeds is None:
        raise ValueError(f"{first.reason}; look for a larger effect or lower the noise")
    smallest = 1 if noise_df is not None else 2
    for maximum in range(max(first.seeds, smallest), max_seeds + 1):
        evenly = {round(maximum * (k + 1) / num_looks) for k in range(num_looks)}
        looks = tuple(sorted({max(look, smallest) for look in evenly}))
        plan = sequential.plan_group_sequential(
            looks,
            alpha=alpha,
            shape=shape,
            noise_df=noise_df,
            effect_in_sd=abs(effect) / sd,
            futility=futility,
        )
        if plan.power is not None and plan.power >= power:
            return plan
    raise ValueError(f"more than {max_seeds} seeds per arm would be needed; look for a larger effect")


def _standard_error(sd: float, seeds: int, correlation: float | None) -> float:
    if not sd > 0:
        raise ValueError(f"sd is {sd}; the noise of one run must be positive")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; at least one run per arm is needed")
    rho = 0.0 if correlation is None else correlation
    if not -1 < rho < 1:
        raise ValueError(f"correlation is {rho}; it must lie between -1 and 1")
    return sd * math.sqrt(2 * (1 - rho) / seeds)


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
