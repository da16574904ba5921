"""From a budget to the size to train: what is best, how sure that is, and what every other choice costs.

One budget covers pilots, hyperparameter search, the final run and, if wanted, serving. The answer holds the
optimal size with its interval over a law's bootstrap draws, the smallest size that is good enough at a stated
confidence with its price in compute, the size for a model that will be served, and what would change the
answer. Left out: fitting the law (`isoflop.fit`), text and page (`isoflop.plan.text`, `isoflop.plan.page`).

Letters: N parameters, D training tokens, T tokens served, C training FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from isoflop import units
from isoflop.flops import hardware
from isoflop.flops.count import effective_parameters, parameters
from isoflop.laws.chinchilla import Basin, ChinchillaLaw, Optimum
from isoflop.plan import price
from isoflop.plan.belief import DEFAULT, Belief, other_published_sizes, parameters_of, published
from isoflop.plan.layout import Layout, Memory, find_layout, training_memory, usual_shape
from isoflop.plan.price import Terrain
from isoflop.records import Budget, Convention, Record

Interval = tuple[float, float] | None
"""Ends of a 95 % interval over the draws; None when the law has no draws."""

TOLERANCES = (0.0025, 0.005, 0.01, 0.02)
"""Tolerances on the loss for which every plan shows the basin and the smallest safe size."""

_OTHER_LAWS = ("besiroglu", "hoffmann", "muennighoff")
"""Published laws of which each plan shows the optimum; their rounded twins would only repeat them."""

SMALLEST_BUDGET, LARGEST_BUDGET = 1e6, 1e32
"""FLOPs; beyond them a budget is a slip of the unit."""


class SizeRequest(Record, frozen=True, kw_only=True):
    """What the planner is asked."""

    budget: Budget
    """FLOPs, device time or money; seconds of this machine have no meaning here."""
    counting: Convention = "6N-all"
    """How FLOPs are counted, those of a budget in FLOPs and those of the MFU. Published laws count six per
    parameter and token. A budget that names another convention wins."""
    device: str = "H100"
    """For memory, days and money; a budget in device time names its own."""
    num_devices: int | None = None
    """Devices that run side by side; None asks for the fewest that hold the model."""
    mfu: float = 0.4
    """Model FLOPs utilisation: share of the device's dense bf16 peak that training reaches, in (0, 1]."""
    months: float = 1.0
    """How many months of a monthly allocation are spent; > 0."""
    usd_per_device_hour: float | None = None
    """> 0; the device list's dated assumption when left out."""
    unique_tokens: float | None = None
    """Different tokens that exist; None when they never run out."""
    serve_tokens: float = 0.0
    """Tokens that the model will process after training, over its life; >= 0."""
    serve_in_budget: bool = False
    """True when serving is paid from the same budget."""
    pilot_share: float = 0.0
    """Share of the budget for small runs that fit a law of one's own, in [0, 1)."""
    search_share: float = 0.0
    """Share of the budget for hyperparameter search, in [0, 1)."""
    law: str = DEFAULT
    """A published law by name, or the path of one's own (see `believe`); ignored when a belief is given."""
    eps: float = 0.01
    """Tolerance on the loss for the smallest safe size, relative, > 0."""
    confidence: float = 0.95
    """Share of the draws in which the tolerance must hold, in (0, 1)."""


class LawUsed(Record, frozen=True, kw_only=True):
    """The law behind a plan."""

    name: str
    title: str
    source: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    num_draws: int
    why_no_interval: str | None
    largest_flops: float | None
    largest_N: float | None
    extrapolation: float | None
    """Final run's FLOPs over the largest run behind the law; above 1 the law is trusted, not checked."""


class Spending(Record, frozen=True, kw_only=True):
    """One line of the budget."""

    what: Literal["pilots", "search", "final run", "serving"]
    flops: float
    share: float


class BasinWidth(Record, frozen=True, kw_only=True):
    """Sizes that are nearly as good as the best one."""

    eps: float
    N_lo: float
    N_hi: float
    N_lo_ci95: Interval
    N_hi_ci95: Interval
    factor: float
    """Half-width as a factor: sqrt(N_hi / N_lo)."""


class PricedSize(Record, frozen=True, kw_only=True):
    """A size, what it gives at the same budget, and what it costs not to train the best one."""

    N: float
    D: float
    tokens_per_parameter: float
    epochs: float | None
    loss: float
    excess: float
    """Loss above the best one, relative."""
    excess_ci95: Interval
    compute_kept: float
    """Share of the budget that an optimal model with this loss needs; the rest is the price."""
    compute_kept_ci95: Interval
    equivalent_flops: float
    """That share as FLOPs."""
    serving_cost: float
    """FLOPs per served token relative to the best size."""


class SmallestWithin(Record, frozen=True, kw_only=True):
    """The smallest model within eps of the optimum at a stated confidence, with its price."""

    eps: float
    confidence: float
    N: float | None
    """None when no size is that safe; then `reason` says so."""
    probability: float | None
    """Share of the draws in which it is within eps; None without draws."""
    price: float | None
    """In compute equivalents: share of the budget that an optimally sized model of the same loss saves."""
    equivalent_flops: float | None
    """What such a model needs, FLOPs."""
    priced: PricedSize | None
    """The same size with everything else that it gives and costs."""
    reason: str | None = None


class LifetimeSize(Record, frozen=True, kw_only=True):
    """A size chosen for training and serving together."""

    N: float
    N_ci95: Interval
    D: float
    tokens_per_parameter: float
    epochs: float | None
    loss: float
    train_flops: float
    serve_flops: float
    total_flops: float
    change: float
    """Lifetime FLOPs (for the same loss) or loss (for the same FLOPs), relative to the training optimum."""
    compute_gain: float
    """For the same FLOPs: C_eq of its loss over that of the training optimum; 1 for the same loss."""


class LifetimePlan(Record, frozen=True, kw_only=True):
    """What serving changes (Sardana et al. 2024)."""

    serve_tokens: float
    same_loss: LifetimeSize
    """The cheapest way to the training optimum's loss."""
    same_total: LifetimeSize
    """The lowest loss for the lifetime FLOPs of the training optimum."""
    floor_N: float
    """No smaller model reaches that loss, with any amount of data."""


class Choice(Record, frozen=True, kw_only=True):
    """The answer under another choice than the one made."""

    group: Literal[
        "law", "estimator", "counting", "form", "method", "forecast", "repetition", "utilisation", "serving"
    ]
    choice: str
    N_opt: float
    D_opt: float
    loss_opt: float | None
    ratio: float
    """N_opt over that of the plan."""
    law: str | None = None
    """Name of the published law, for the group "law"."""
    exponent: float | None = None
    """For a choice that gives a size and no loss: N grows with the budget to this power."""
    parameters: tuple[float, float, float, float, float] | None = None
    """E, A, B, alpha, beta of the other fit, for the groups "estimator" and "forecast"."""
    budget_factor: float = 1.0
    """The budget under this choice over that of the plan, as the law counts."""
    coverage: float | None = None
    """For "forecast": share of the runs left out that fell into their 95 % prediction interval."""
    mean_error: float | None = None
    """For "forecast": mean of predicted over measured loss of those runs, minus 1."""


class HardwarePlan(Record, frozen=True, kw_only=True):
    """Memory, a layout and days for the final run."""

    device: str
    mfu: float
    memory: Memory
    layout: Layout
    device_days: float
    days: float | None
    """With the layout's devices; None when it does not fit."""
    usd: float | None
    usd_note: str | None
    """Where the price is from, or why there is none."""


class SizePlan(Record, frozen=True, kw_only=True):
    """The planner's answer. Intervals are 95 % over the law's draws and know nothing of a wrong law."""

    request: SizeRequest
    law: LawUsed
    total_flops: float
    """The whole budget, counted as the law counts."""
    final_flops: float
    """What is left for the final run (with serving, when serving is paid from the budget)."""
    steps: tuple[str, ...]
    """How the budget became FLOPs, step by step."""
    spending: tuple[Spending, ...]
    N_opt: float
    N_opt_ci95: Interval
    D_opt: float
    D_opt_ci95: Interval
    loss_opt: float
    loss_opt_ci95: Interval
    tokens_per_parameter: float
    epochs: float | None
    """Passes over the unique tokens at the optimum; None when they never run out."""
    fresh_share: float | None
    """What a training token is worth on average beside a new one, at the optimum; None without repetition."""
    basin_1pct: BasinWidth
    basins: tuple[BasinWidth, ...]
    smallest_within: SmallestWithin
    smallest_by_tolerance: tuple[SmallestWithin, ...]
    price_list: tuple[PricedSize, ...]
    last_decade: PricedSize
    """A tenth of the optimal size: what the last order of magnitude of size buys."""
    lifetime: LifetimePlan
    sensitivity: tuple[Choice, ...]
    unanswered: tuple[str, ...]
    """Other choices that the law's runs give no answer for, with the reason."""
    hardware: HardwarePlan
    warnings: tuple[str, ...]


def plan_size(
    request: SizeRequest, belief: Belief | None = None, sensitivity: tuple[Choice, ...] = ()
) -> SizePlan:
    """Answer a request.

    Args:
        request: what is asked.
        belief: a law fitted to one's own runs, with its draws; the law named in the request if left out.
        sensitivity: the answer under other ways to fit the same runs, shown first in the panel.

    Raises ValueError with the remedy for a request that cannot be met.
    """
    check_request(request)
    belief = belief or believe(request)
    total, steps = _law_flops(request, belief)
    if not SMALLEST_BUDGET <= total <= LARGEST_BUDGET:
        raise ValueError(
            f"{units.format_flops(total)} is outside what can be planned, {SMALLEST_BUDGET:g} to "
            f"{LARGEST_BUDGET:g} FLOPs; check the unit of the budget"
        )
    final = total * (1.0 - request.pilot_share - request.search_share)
    valley = Valley.build(request, belief, final)
    best = valley.best
    return SizePlan(
        request=request,
        law=_law_used(belief, final),
        total_flops=total,
        final_flops=final,
        steps=steps,
        spending=_spending(request, total, best),
        N_opt=best.N,
        N_opt_ci95=valley.ci95(lambda at: at.N),
        D_opt=best.D,
        D_opt_ci95=valley.ci95(lambda at: at.D),
        loss_opt=best.loss,
        loss_opt_ci95=valley.ci95(lambda at: at.loss),
        tokens_per_parameter=best.D / best.N,
        epochs=valley.terrain.epochs(best.N),
        fresh_share=_fresh_share(best.D, request.unique_tokens),
        basin_1pct=valley.basin_width(0.01),
        basins=tuple(valley.basin_width(eps) for eps in TOLERANCES),
        smallest_within=valley.smallest(request.eps, request.confidence),
        smallest_by_tolerance=tuple(valley.smallest(eps, request.confidence) for eps in TOLERANCES),
        price_list=tuple(
            valley.priced(best.N * factor) for factor in (2.0, 1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
        ),
        last_decade=valley.priced(best.N / 10.0),
        lifetime=_lifetime(valley, request),
        sensitivity=sensitivity + _other_choices(request, belief, final, best),
        unanswered=belief.unanswered,
        hardware=_hardware(request, belief, best),
        warnings=_warnings(request, belief, final, best),
    )


def believe(request: SizeRequest, columns: Mapping[str, str] | None = None) -> Belief:
    """The law that a request names: a published one, or one's own from a table, a folder or a kept fit.

    Args:
        request: its `law` is a name or a path.
        columns: role -> column, for a table without usual names.

    Raises ValueError with the remedy.
    """
    from isoflop.plan.belief_own import is_own, own_law

    if not is_own(request.law):
        return published(request.law)
    nearly, _ = _law_flops(request, published(DEFAULT))  # the count hardly depends on the law
    final = nearly * (1.0 - request.pilot_share - request.search_share)
    return own_law(request.law, columns, near=final)


def check_request(request: SizeRequest) -> None:
    """Refuse what cannot be planned; each message holds the value and the remedy. Raises ValueError."""
    if not (request.budget.amount > 0 and math.isfinite(request.budget.amount)):
        raise ValueError(
            f"a budget of {request.budget.amount:g} buys nothing; give an amount above zero, "
            'e.g. --budget 3e20 or --budget "50 H100-days"'
        )
    if request.budget.unit == "seconds":
        raise ValueError(
            f"a budget of {request.budget.text or 'plain time'} names no device; give FLOPs, device time or money, "
            'e.g. --budget 3e20, --budget "50 H100-days" or --budget "$200"'
        )
    if request.unique_tokens is not None and not request.unique_tokens > 0:
        raise ValueError(
            f"{request.unique_tokens:g} unique tokens cannot train anything; give a number above zero, "
            "or leave --unique out when data never run out"
        )
    if not (request.serve_tokens >= 0 and math.isfinite(request.serve_tokens)):
        raise ValueError(
            f"{request.serve_tokens:g} tokens served; give the number expected over the model's life, "
            "e.g. --serve 1e13, or leave it out"
        )
    for name, share in (("pilots", request.pilot_share), ("search", request.search_share)):
        if not 0 <= share < 1:
            raise ValueError(f"a share of {share:g} for {name}; give a number from 0 up to 1, e.g. 0.1")
    if request.pilot_share + request.search_share >= 1:
        raise ValueError(
            f"pilots and search take {request.pilot_share + request.search_share:.0%} of the budget and leave "
            "nothing for the final run; lower one of them"
        )
    if not 0 < request.mfu <= 1:
        raise ValueError(f"an MFU of {request.mfu:g}; give a share of the peak from 0 to 1, e.g. 0.4")
    if not request.months > 0:
        raise ValueError(f"{request.months:g} months of an allocation; give a number above zero")
    if not 0 < request.eps < 1:
        raise ValueError(f"a tolerance of {request.eps:g} on the loss; give a share such as 0.01 for 1 %")
    if not 0 < request.confidence < 1:
        raise ValueError(f"a confidence of {request.confidence:g}; give a share below 1 such as 0.95")


def read_request(
    budget: str, *, unique: str | None = None, serve: str | None = None, **options: Any
) -> SizeRequest:
    """A request from text as people write it: budget "50 H100-days", unique "10e9", serve "1e14".

    Args:
        budget: as `Budget.parse` reads it.
        unique: unique tokens, as `units.parse_count` reads them; None for no limit.
        serve: tokens served; None or "0" for none.
        options: further fields of `SizeRequest`.

    Raises ValueError for what cannot be read or planned.
    """
    counting: Convention = options.get("counting") or "6N-all"
    request = SizeRequest(
        budget=Budget.parse(budget, convention=counting),
        unique_tokens=None if unique is None else units.parse_count(unique),
        serve_tokens=0.0 if serve is None or serve.strip() == "0" else units.parse_count(serve),
        **{name: value for name, value in options.items() if value is not None},
    )
    check_request(request)
    return request


# ------------------------------------------------------------------------------------- the valley


class Valley:
    """One budget's valley under the point estimate and under every draw."""

    def __init__(self, belief: Belief, terrain: Terrain, spread: Terrain | None) -> None:
        self.belief, self.terrain, self.spread = belief, terrain, spread
        self.best = terrain.optimum()
        self.bests = spread.optimum() if spread else None
        self._basins: dict[float, tuple[Basin, Basin | None]] = {}

    @classmethod
    def build(cls, request: SizeRequest, belief: Belief, flops: float) -> Valley:
        serve = request.serve_tokens if request.serve_in_budget else 0.0

        def terrain(law: ChinchillaLaw) -> Terrain:
            return Terrain(law=law, flops=flops, unique_tokens=request.unique_tokens, serve_tokens=serve)

        return cls(belief, terrain(belief.law), terrain(belief.draws) if belief.draws else None)

    def ci95(self, of: Callable[[Optimum], np.ndarray]) -> Interval:
        return None if self.bests is None else interval95(of(self.bests))

    def basin(self, eps: float) -> tuple[Basin, Basin | None]:
        """The basin of the point estimate and those of the draws."""
        if eps not in self._basins:
            spread = self.spread.basin(eps) if self.spread else None
            self._basins[eps] = (self.terrain.basin(eps), spread)
        return self._basins[eps]

    def basin_width(self, eps: float) -> BasinWidth:
        point, spread = self.basin(eps)
        return BasinWidth(
            eps=eps,
            N_lo=point.N_lo,
            N_hi=point.N_hi,
            N_lo_ci95=interval95(spread.N_lo) if spread else None,
            N_hi_ci95=interval95(spread.N_hi) if spread else None,
            factor=math.sqrt(point.N_hi / point.N_lo),
        )

    def smallest(self, eps: float, confidence: float) -> SmallestWithin:
        point, spread = self.basin(eps)
        if spread is None:
            alone = f"under the point estimate alone: {self.belief.why_no_draws}"
            return self._smallest(eps, confidence, point.N_lo, None, alone)
        safe = price.smallest_safe_size(spread, confidence)
        reason: str | None = None
        if safe.N is None:
            reason = (
                f"no size is within {eps:.2%} of the optimum in {confidence:.0%} of the draws; the safest, "
                f"{units.format_count(safe.surest_N)}, is in {safe.probability:.0%}"
            )
        return self._smallest(eps, confidence, safe.N, safe.probability, reason)

    def _smallest(
        self, eps: float, confidence: float, N: float | None, probability: float | None, reason: str | None
    ) -> SmallestWithin:
        priced = None if N is None else self.priced(N)
        return SmallestWithin(
            eps=eps,
            confidence=confidence,
            N=N,
            probability=probability,
            price=None if priced is None else 1.0 - priced.compute_kept,
            equivalent_flops=None if priced is None else priced.equivalent_flops,
            priced=priced,
            reason=reason,
        )

    def priced(self, N: float) -> PricedSize:
        """What this size gives and costs, with intervals over the draws."""
        law, loss, D = self.belief.law, self.terrain.loss(N), self.terrain.tokens(N)
        if not math.isfinite(loss):
            return self.priced(0.5 * N)  # serving alone would eat the budget: show the next smaller size
        kept = price.compute_kept(law, self.best.loss, loss)
        excess_ci = kept_ci = None
        if self.spread is not None and self.bests is not None and self.belief.draws is not None:
            losses = self.spread.loss(N)
            excess_ci = interval95(losses / self.bests.loss - 1.0)
            kept_ci = interval95(price.compute_kept(self.belief.draws, self.bests.loss, losses))
        return PricedSize(
            N=N,
            D=D,
            tokens_per_parameter=D / N,
            epochs=self.terrain.epochs(N),
            loss=loss,
            excess=max(loss / self.best.loss - 1.0, 0.0),
            excess_ci95=excess_ci,
            compute_kept=min(kept, 1.0),
            compute_kept_ci95=kept_ci,
            equivalent_flops=min(kept, 1.0) * float(self.terrain.flops),
            serving_cost=N / self.best.N,
        )


def interval95(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles over draws."""
    low, high = np.quantile(np.asarray(values), (0.025, 0.975))
    return float(low), float(high)


# --------------------------------------------------------------------------------------- the budget


def _law_flops(request: SizeRequest, belief: Belief) -> tuple[float, tuple[str, ...]]:
    """The budget in FLOPs counted as the law counts, and how it was reached."""
    counted = hardware.budget_to_flops(
        request.budget,
        mfu=request.mfu,
        device_name=request.budget.device or request.device,
        convention=request.counting,
        usd_per_hour=request.usd_per_device_hour,
        months=request.months,
    )
    flops, convention = counted.count.flops, counted.count.convention
    factor = _counting_factor(convention, belief.law, flops)
    if factor == 1.0:
        return flops, counted.assumptions
    step = (
        f"counted as {convention}, a model near the optimum takes {factor:.3g} times 6ND: "
        f"{units.format_flops(flops / factor)} as the law counts"
    )
    return flops / factor, (*counted.assumptions, step)


def _counting_factor(convention: Convention, law: ChinchillaLaw, flops: float) -> float:
    """FLOPs under a convention over 6 x all parameters x tokens, for a usual shape near the optimum."""
    if convention == "6N-all":
        return 1.0
    factor = 1.0
    for _ in range(3):  # the optimum moves with the factor by a power below one: a few rounds settle it
        shape = usual_shape(max(1e5, law.optimum(flops / factor).N))
        factor = effective_parameters(shape, convention) / parameters(shape).total
    return factor


def _spending(request: SizeRequest, total: float, best: Optimum) -> tuple[Spending, ...]:
    train = total * (1.0 - request.pilot_share - request.search_share)
    serving = price.SERVE_FLOPS * best.N * request.serve_tokens if request.serve_in_budget else 0.0
    lines = (
        ("pilots", total * request.pilot_share),
        ("search", total * request.search_share),
        ("final run", train - serving),
        ("serving", serving),
    )
    return tuple(
        Spending(what=what, flops=flops, share=flops / total)  # type: ignore[arg-type]
        for what, flops in lines
        if flops > 0
    )


def _fresh_share(D: float, unique: float | None) -> float | None:
    return None if unique is None else float(price.saturated(D, unique, price.R_D)) / D


def _law_used(belief: Belief, flops: float) -> LawUsed:
    law = belief.law
    return LawUsed(
        name=belief.name,
        title=belief.title,
        source=belief.source,
        E=float(law.E),
        A=float(law.A),
        B=float(law.B),
        alpha=float(law.alpha),
        beta=float(law.beta),
        num_draws=belief.num_draws,
        why_no_interval=belief.why_no_draws or None,
        largest_flops=belief.largest_flops,
        largest_N=belief.largest_N,
        extrapolation=flops / belief.largest_flops if belief.largest_flops else None,
    )


# ------------------------------------------------------------------------------------------ lifetime


def _lifetime(valley: Valley, request: SizeRequest) -> LifetimePlan:
    law, best, T = valley.belief.law, valley.best, request.serve_tokens
    as_trained = price.lifetime_flops(law, best.N, best.D, T)
    cheapest = price.cheapest_for_loss(law, best.loss, T, request.unique_tokens)
    if not math.isfinite(cheapest.N):  # data exhausted to the last digit: the optimum alone reaches its loss
        cheapest = price.Lifetime(best.N, best.D, best.loss, as_trained)
    richest = price.best_for_total(law, as_trained, T, request.unique_tokens)
    cheap_ci = rich_ci = None
    if valley.bests is not None and valley.belief.draws is not None:
        draws = valley.belief.draws
        cheap = price.cheapest_for_loss(draws, valley.bests.loss, T, request.unique_tokens)
        cheap_ci = interval95(np.where(np.isfinite(cheap.N), np.asarray(cheap.N), np.asarray(valley.bests.N)))
        rich_ci = interval95(price.best_for_total(draws, as_trained, T, request.unique_tokens).N)
    gain = 1.0 / price.compute_kept(law, richest.loss, best.loss)
    return LifetimePlan(
        serve_tokens=T,
        same_loss=_lifetime_size(cheapest, cheap_ci, request, cheapest.total_flops / as_trained - 1.0, 1.0),
        same_total=_lifetime_size(richest, rich_ci, request, richest.loss / best.loss - 1.0, gain),
        floor_N=law.smallest_size_for_loss(best.loss),
    )


def _lifetime_size(
    size: price.Lifetime, ci95: Interval, request: SizeRequest, change: float, gain: float
) -> LifetimeSize:
    serving = price.SERVE_FLOPS * size.N * request.serve_tokens
    return LifetimeSize(
        N=size.N,
        N_ci95=ci95,
        D=size.D,
        tokens_per_parameter=size.D / size.N,
        epochs=size.D / request.unique_tokens if request.unique_tokens else None,
        loss=size.loss,
        train_flops=size.total_flops - serving,
        serve_flops=serving,
        total_flops=size.total_flops,
        change=change,
        compute_gain=gain,
    )


# --------------------------------------------------------------------------------------- sensitivity


def _other_choices(request: SizeRequest, belief: Belief, flops: float, best: Optimum) -> tuple[Choice, ...]:
    """The optimum under other fits, laws, counts and assumptions; nothing else changes."""
    here = Terrain(
        law=belief.law,
        flops=flops,
        unique_tokens=request.unique_tokens,
        serve_tokens=request.serve_tokens if request.serve_in_budget else 0.0,
    )

    def choice(group: Any, words: str, terrain: Terrain, comparable: bool = True, **more: Any) -> Choice:
        at = terrain.optimum()
        return Choice(
            group=group,
            choice=words,
            N_opt=at.N,
            D_opt=at.D,
            loss_opt=at.loss if comparable else None,
            ratio=at.N / best.N,
            budget_factor=float(terrain.flops) / flops,
            **more,
        )

    rows = [
        choice("estimator", words, replace(here, law=law), parameters=parameters_of(law))
        for words, law in belief.other_fits
    ]
    for name in _OTHER_LAWS:
        if name != belief.name:
            other = published(name)
            terrain = replace(here, law=other.law)
            rows.append(choice("law", f"{other.title} ({name})", terrain, comparable=False, law=name))
    if belief.forecast is not None:
        test = belief.forecast
        rows.append(
            choice("forecast", test.words, replace(here, law=test.law), parameters=parameters_of(test.law),
                   coverage=test.coverage, mean_error=test.mean_error)
        )  # fmt: skip
    rows += _other_rules(request, belief, flops, best)
    for group, words, factor in _other_counts(request, belief, flops):
        rows.append(choice(group, words, replace(here, flops=flops * factor)))
    if request.unique_tokens is not None:
        rows.append(choice("repetition", "repeated tokens as good as new", replace(here, unique_tokens=None)))
    if here.serve_tokens:
        rows.append(choice("serving", "serving paid from elsewhere", replace(here, serve_tokens=0.0)))
    return tuple(rows)


def _other_rules(request: SizeRequest, belief: Belief, flops: float, best: Optimum) -> list[Choice]:
    """What names a size and no loss; nothing where repetition or serving, which it ignores, bears."""
    repeats = request.unique_tokens is not None and best.D > request.unique_tokens
    if repeats or (request.serve_in_budget and request.serve_tokens):
        return []

    def choice(group: Any, words: str, N: float, exponent: float, law: str | None = None) -> Choice:
        return Choice(
            group=group,
            choice=words,
            N_opt=N,
            D_opt=flops / (6.0 * N),
            loss_opt=None,
            ratio=N / best.N,
            law=law,
            exponent=exponent,
        )

    same_runs = [choice(one.group, one.words, one.at(flops), one.exponent) for one in belief.other_sizes]
    rules = other_published_sizes(flops)
    return same_runs + [choice("law", rule.words, rule.N, rule.exponent, rule.name) for rule in rules]


def _other_counts(request: SizeRequest, belief: Belief, flops: float) -> list[tuple[str, str, float]]:
    """(group, words, budget over the plan's) for other counts of a budget in FLOPs, or another utilisation."""
    if request.budget.unit != "flops":
        return [("utilisation", f"MFU {request.mfu * factor:.0%}", factor) for factor in (0.75, 1.25)]
    counted_as = request.budget.convention or request.counting
    recounted = flops * _counting_factor(counted_as, belief.law, flops)
    others: tuple[Convention, ...] = ("6N-nonembedding", "matmul-causal", "matmul-causal+recompute")
    return [
        (
            "counting",
            f"budget counted as {one}",
            recounted / _counting_factor(one, belief.law, recounted) / flops,
        )
        for one in others
        if one != counted_as
    ]


# ------------------------------------------------------------------------------------------ hardware


def _hardware(request: SizeRequest, belief: Belief, best: Optimum) -> HardwarePlan:
    device = hardware.device(request.budget.device or request.device)
    memory = training_memory(best.N, usual_shape(min(max(best.N, 1e5), 9e16)))
    layout = find_layout(memory, device.memory_bytes, request.num_devices, device.name)
    train = belief.law.k * best.N * best.D
    device_seconds = train / (device.peak() * request.mfu)
    rate = request.usd_per_device_hour or device.usd_per_hour
    assumed = None if request.usd_per_device_hour else f"assumed, {hardware.PRICES_AS_OF}"
    return HardwarePlan(
        device=device.name,
        mfu=request.mfu,
        memory=memory,
        layout=layout,
        device_days=device_seconds / 86_400,
        days=device_seconds / 86_400 / layout.num_devices if layout.feasible else None,
        usd=device_seconds / 3600 * rate if rate else None,
        usd_note=assumed if rate else f"no price is assumed for {device.name}; give one in USD an hour",
    )


# ------------------------------------------------------------------------------------------ warnings


def _warnings(request: SizeRequest, belief: Belief, flops: float, best: Optimum) -> tuple[str, ...]:
    """What a reader must know before acting on the plan, in plain words."""
    said: list[str] = []
    if belief.largest_flops and flops > belief.largest_flops:
        said.append(
            f"This goes beyond what was observed: the budget is {_times(flops / belief.largest_flops)} that of "
            "the largest run behind the law. The intervals do not know whether the law holds out here."
        )
    if belief.smallest_flops and flops < belief.smallest_flops:
        said.append(
            f"This is smaller than what was observed: the smallest run behind the law took "
            f"{_times(belief.smallest_flops / flops)} the budget. Read the numbers as a rough guess."
        )
    epochs = best.D / request.unique_tokens if request.unique_tokens else 0.0
    if epochs > 1:
        said.append(
            "How fast repeated text loses its value is taken from Muennighoff et al. 2023 (models up to 9B), "
            "without an interval."
        )
    if request.serve_tokens and not request.serve_in_budget:
        said.append(
            "Far more tokens per parameter than usual bring less than laws say (Sardana et al. 2024): read the "
            "lifetime sizes as lower ends."
        )
    if request.pilot_share + request.search_share == 0:
        said.append("Nothing is set aside for pilot runs or a hyperparameter search (--pilots, --search).")
    return tuple(said)


def _times(ratio: float) -> str:
    return f"{ratio:,.2g} times" if ratio < 100 else f"{float(f'{ratio:.2g}'):,.0f} times"
