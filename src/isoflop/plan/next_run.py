"""Which run next: the one that most lowers the compute expected to be lost by acting on what is known.

The question behind a sweep is a decision: which size to train at a target budget. Choosing size n when the
law is d loses compute, 1 - C_eq(loss of n) / C_eq(best loss). Over draws of laws that the runs so far allow
(`isoflop.fit.law.few_runs`), that has an expectation; each possible run is worth what it is expected to take off it,
per unit of its own cost. Three things stand against a wrong law: draws come from two forms; a declared share of
the spending goes to a bracket, three sizes around the predicted optimum at the largest budget that it can pay, which
shows where the best size lies there whatever the law says; and each of those runs is first predicted from the runs
below, so that a failed prediction lowers the trust in runs far below the top.

Left out: launching the runs, and the error of the loss between seeds beyond what the runs themselves show.

Letters: N parameters, D tokens, C training FLOPs; n runs, m candidates, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from isoflop.fit.law.few_runs import Draws, Posterior, Prior, posterior

Array = np.ndarray
K = 6.0
"""Training FLOPs per parameter and token."""
ALARM = 2.5
"""A held-out run this many predicted standard deviations away is a failed prediction."""


class Runs(NamedTuple):
    """Runs that were done: parameters, tokens, loss, FLOPs, arrays [n]."""

    N: Array
    D: Array
    loss: Array
    flops: Array


class Candidates(NamedTuple):
    """Runs that could be done: parameters, tokens and what each costs in FLOPs, arrays [m]."""

    N: Array
    D: Array
    flops: Array


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How runs are chosen and when to stop. The defaults were chosen on simulated laws, never on real tables."""

    eps: float = 0.005
    """Stop when the recommended size is within this of the best loss ..."""
    confidence: float = 0.95
    """... in this share of the draws."""
    guard_share: float = 0.7
    """Share of the spending that goes to the bracket of large runs, against a wrong law."""
    bracket: tuple[float, ...] = (0.0, -1.2, 1.2)
    """Sizes of the bracket, in log N from the predicted optimum at its budget, in the order they are run."""
    cost_power: float = 0.7
    """Runs are compared by value / cost^power: 1 favours many cheap ones, 0 forgets the cost."""
    num_draws: int = 400
    prior: Prior = field(default_factory=Prior)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What acting now would mean."""

    N: float
    """Size with the smallest expected loss of compute at the target budget."""
    N_ci95: tuple[float, float]
    """Where the best size lies in 95 % of the draws."""
    lost: float
    """Share of the compute that choosing N is expected to lose, in [0, 1)."""
    lost_q95: float
    """The share that it loses at most in 95 % of the draws."""
    within: float
    """Share of the draws in which N is within the rule's eps of the best loss."""
    second_order: float
    """Posterior probability of the second form."""
    noise: float
    """Estimated noise of one run, relative standard deviation of the loss."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A run to do."""

    index: int
    """Its place among the candidates."""
    N: float
    D: float
    flops: float
    why: Literal["decision", "guard"]
    lost_after: float
    """Expected loss of compute after it (and after those chosen before it)."""
    predicted_loss: float
    predicted_sd: float
    """Of one run's loss, noise included; a held-out run far outside is an alarm."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A held-out run at the top: what was predicted from the runs below it, and what came."""

    flops: float
    z: float
    """(observed - predicted) / predicted standard deviation, in log loss."""
    decades: float
    """How far it lay above the median run it was predicted from, in decades of FLOPs."""


@dataclass(frozen=True, kw_only=True)
class NextRuns:
    """The answer: what to run, what acting now would mean, and whether to stop."""

    target_flops: float
    now: Decision
    chosen: tuple[Chosen, ...]
    stop: bool
    reason: str
    checks: tuple[Check, ...]
    doubt: float
    """Relative error of the law per decade below the top that the failed checks suggest; 0 without any."""


def next_runs(
    runs: Runs,
    candidates: Candidates,
    target_flops: float,
    *,
    num: int = 3,
    allowance: float | None = None,
    spent_on_guard: float | None = None,
    checks: tuple[Check, ...] | None = None,
    rule: Rule | None = None,
    seed: int = 0,
) -> NextRuns:
    """Choose the next runs.

    Args:
        runs: what was done so far, at least three.
        candidates: what could be done.
        target_flops: the budget at which the decision will be taken.
        num: how many runs to choose at once.
        allowance: FLOPs that may still be spent; None for no limit.
        spent_on_guard: FLOPs already spent on large runs against a wrong law; those of the runs at the largest
            budget when left out.
        checks: the held-out predictions so far, from `check_run`; when left out, the runs at the largest budget are
            predicted from all others.
        rule: thresholds and shares.
        seed: of the draws.

    Raises ValueError for too few runs, no candidate that can be paid, or a target that is not above zero.
    """
    rule = rule or Rule()
    _refuse(runs, candidates, target_flops, num)
    checks = held_out(runs, rule, seed=seed) if checks is None else checks
    if spent_on_guard is None:
        spent_on_guard = float(runs.flops[_at_top(runs)].sum()) if checks else 0.0
    doubt = doubt_of(checks)
    belief = believe(runs, rule, doubt=doubt, seed=seed)
    now = decide(belief, target_flops, rule)
    if settled(now, checks, rule):
        reason = (
            f"the recommended size is within {rule.eps:.2%} of the best in {now.within:.0%} of the draws, and the last "
            "held-out run came as predicted"
        )
        return NextRuns(
            target_flops=target_flops,
            now=now,
            chosen=(),
            stop=True,
            reason=reason,
            checks=checks,
            doubt=doubt,
        )
    left = np.inf if allowance is None else allowance
    chosen = _choose(belief, runs, candidates, target_flops, num, left, spent_on_guard, rule, seed)
    reason = _why_not_stop(now, rule, checks)
    if not chosen:
        reason = "no candidate can be paid from what is left: act on the decision, or allow more"
    return NextRuns(
        target_flops=target_flops,
        now=now,
        chosen=tuple(chosen),
        stop=not chosen,
        reason=reason,
        checks=checks,
        doubt=doubt,
    )


def settled(now: Decision, checks: tuple[Check, ...], rule: Rule) -> bool:
    """Whether to stop: the decision is stable, and the last held-out run came as predicted."""
    return now.within >= rule.confidence and bool(checks) and abs(checks[-1].z) <= ALARM


def believe(runs: Runs, rule: Rule, *, doubt: float = 0.0, seed: int = 0) -> Posterior:
    """What the runs allow; runs far below the top count less when held-out predictions failed."""
    decades = np.log10(runs.flops.max() / runs.flops)
    trust = 1.0 / (1.0 + (doubt * decades / rule.prior.noise) ** 2)
    return posterior(
        runs.N, runs.D, runs.loss, trust=trust, prior=rule.prior, num_draws=rule.num_draws, seed=seed
    )


def decide(belief: Posterior, target_flops: float, rule: Rule) -> Decision:
    """The size with the smallest expected loss of compute, and how sure it is."""
    valley = _Valley.build(belief.draws, target_flops)
    low, high = np.quantile(valley.x, (0.025, 0.975))
    tried = np.linspace(low, high, 41)
    lost = valley.lost(tried[:, None] - valley.x)  # [41, B]
    best = int(np.argmin(lost.mean(axis=1)))
    excess = valley.excess(tried[best] - valley.x)
    return Decision(
        N=float(np.exp(tried[best])),
        N_ci95=(float(np.exp(low)), float(np.exp(high))),
        lost=float(lost[best].mean()),
        lost_q95=float(np.quantile(lost[best], 0.95)),
        within=float(np.mean(excess <= rule.eps)),
        second_order=belief.second_order,
        noise=belief.noise,
    )


def _at_top(runs: Runs) -> Array:
    """Runs at the largest budget, [n] booleans."""
    return runs.flops >= 0.9 * runs.flops.max()


def held_out(runs: Runs, rule: Rule, *, seed: int = 0) -> tuple[Check, ...]:
    """The runs at the largest budget, predicted from all others, the worst prediction last.

    None when fewer than five runs would be left to predict from.
    """
    top = _at_top(runs)
    if np.count_nonzero(~top) < 5:
        return ()
    below = Runs(*(values[~top] for values in runs))
    belief = believe(below, rule, seed=seed)
    checks = [
        check_run(belief, below, float(runs.N[i]), float(runs.D[i]), float(runs.loss[i]))
        for i in np.flatnonzero(top)
    ]
    return tuple(sorted(checks, key=lambda check: abs(check.z)))


def check_run(belief: Posterior, runs: Runs, N: float, D: float, loss: float) -> Check:
    """Hold a finished run against what was predicted without it."""
    predicted = np.log(belief.draws.loss(N, D))
    sd = float(np.sqrt(predicted.var() + belief.noise**2))
    flops = K * N * D
    return Check(
        flops=flops,
        z=float((np.log(loss) - predicted.mean()) / sd),
        decades=float(np.log10(flops / np.median(runs.flops))),
    )


def doubt_of(checks: tuple[Check, ...], noise: float = 0.005) -> float:
    """Relative error per decade that explains what noise does not: sqrt(mean z^2 - 1), at least one decade away.

    0 unless a check failed: one deviation below the alarm is no evidence against a law.
    """
    if not any(abs(check.z) > ALARM for check in checks):
        return 0.0
    beyond = float(np.mean([check.z**2 for check in checks])) - 1.0
    decades = max(float(np.mean([check.decades for check in checks])), 1.0)
    return noise * float(np.sqrt(max(beyond, 0.0))) / decades


# ------------------------------------------------------------------------------------------ value


class _Valley(NamedTuple):
    """The valley of each draw at the target budget, around its own optimum. All arrays [B]."""

    x: Array
    """log N*."""
    E: Array
    terms: tuple[Array, Array, Array, Array, Array]
    """In s, d, s^2, s d, d^2 at the optimum."""
    alpha: Array
    beta: Array
    gamma: Array
    """Fall of the reducible loss with compute along the path of optima, as a power."""

    @classmethod
    def build(cls, draws: Draws, C: float) -> _Valley:
        x = draws.best_size(C)
        terms = draws.terms(np.exp(x), C / (K * np.exp(x)))
        _, d, _, sd, dd = terms
        # By the envelope theorem only D moves with C: d log r / d log C = -beta (d + sd + 2 dd) / r.
        gamma = draws.beta * (d + sd + 2 * dd) / np.maximum(sum(terms), 1e-9)
        return cls(x, draws.E, terms, draws.alpha, draws.beta, np.maximum(gamma, 1e-3))

    @property
    def best(self) -> Array:
        """Reducible loss at the optimum."""
        return np.maximum(sum(self.terms), 1e-9)

    def reducible(self, offset: Array) -> Array:
        """Reducible loss at log N* + offset."""
        s, d, ss, sd, dd = self.terms
        fall, rise = np.exp(-self.alpha * offset), np.exp(self.beta * offset)
        return s * fall + d * rise + ss * fall**2 + sd * fall * rise + dd * rise**2

    def lost(self, offset: Array) -> Array:
        """Share of the compute lost at that offset: 1 - (r / r*)^(-1/gamma)."""
        ratio = np.maximum(self.reducible(offset) / self.best, 1.0)
        return 1.0 - np.power(ratio, -1.0 / self.gamma)

    def excess(self, offset: Array) -> Array:
        """Loss above the best, relative."""
        return (self.reducible(offset) - self.best) / (self.E + self.best)


class Ensemble:
    """Draws of log N* and of the loss of each candidate, moved by imagined runs.

    An imagined run updates all of them by their covariance with its outcome, as an ensemble Kalman filter does
    (Evensen 2003): exact where everything is Gaussian, and it needs no refit.
    """

    def __init__(self, belief: Posterior, candidates: Candidates, target_flops: float, seed: int) -> None:
        self.valley = _Valley.build(belief.draws, target_flops)
        self.x = self.valley.x.copy()
        self.log_loss = np.log(belief.draws.loss(candidates.N[:, None], candidates.D[:, None]))  # [m, B]
        self.noise = belief.noise
        self.rng = np.random.default_rng(seed)

    def expected_lost(self, x: Array) -> Array:
        """Expected loss of compute when the mean of x is chosen; x is [..., B]."""
        return self.valley.lost(x.mean(axis=-1, keepdims=True) - x).mean(axis=-1)

    def outcomes(self) -> Array:
        """One imagined outcome of each candidate under each draw, [m, B]."""
        return self.log_loss + self.noise * self.rng.standard_normal(self.log_loss.shape[1])

    def lost_after(self) -> Array:
        """Expected loss of compute after each candidate alone, [m]."""
        outcome = self.outcomes()
        centred = outcome - outcome.mean(axis=1, keepdims=True)
        gain = centred @ (self.x - self.x.mean()) / (centred**2).sum(axis=1)
        return self.expected_lost(self.x - gain[:, None] * centred)

    def information(self) -> Array:
        """Information of each candidate about all parameters, nats, [m]: what D-optimal design maximises."""
        return 0.5 * np.log1p(self.log_loss.var(axis=1) / self.noise**2)

    def variance_after(self, about: Array) -> Array:
        """Mean variance of the quantities `about` [q, B] after each candidate, [m]: V-optimal design."""
        outcome = self.outcomes()
        centred = outcome - outcome.mean(axis=1, keepdims=True)
        deviations = about - about.mean(axis=1, keepdims=True)
        covariance = centred @ deviations.T / len(self.x)  # [m, q]
        explained = covariance**2 / centred.var(axis=1)[:, None]
        return deviations.var(axis=1).mean() - explained.mean(axis=1)

    def imagine(self, index: int) -> None:
        """Move everything as if the candidate had been run."""
        outcome = self.outcomes()[index]
        centred = outcome - outcome.mean()
        power = float(centred @ centred)
        self.x = self.x - float(centred @ (self.x - self.x.mean())) / power * centred
        means = self.log_loss.mean(axis=1, keepdims=True)
        self.log_loss = self.log_loss - ((self.log_loss - means) @ centred)[:, None] / power * centred


def _choose(
    belief: Posterior,
    runs: Runs,
    candidates: Candidates,
    target_flops: float,
    num: int,
    left: float,
    spent_on_guard: float,
    rule: Rule,
    seed: int,
) -> list[Chosen]:
    ensemble = Ensemble(belief, candidates, target_flops, seed)
    free = np.ones(len(candidates.N), dtype=bool)
    spent = float(runs.flops.sum())
    guard = spent_on_guard
    chosen: list[Chosen] = []
    for _ in range(num):
        payable = free & (candidates.flops <= left)
        if not payable.any():
            break
        why: Literal["decision", "guard"] = "decision"
        done = (
            np.append(runs.N, [one.N for one in chosen]),
            np.append(runs.flops, [one.flops for one in chosen]),
        )
        index = _bracket_run(belief, candidates, payable, done, spent, left, guard, rule)
        if index is not None:
            why = "guard"
        after = ensemble.lost_after()
        if index is None:
            gain = np.maximum(ensemble.expected_lost(ensemble.x) - after, 0.0)
            score = np.where(payable, gain / candidates.flops**rule.cost_power, -np.inf)
            index, why = int(np.argmax(score)), "decision"
        chosen.append(_as_chosen(belief, candidates, index, why, float(after[index])))
        ensemble.imagine(index)
        free[index] = False
        cost = float(candidates.flops[index])
        left, spent = left - cost, spent + cost
        guard += cost if why == "guard" else 0.0
    return chosen


def _bracket_run(
    belief: Posterior,
    candidates: Candidates,
    payable: Array,
    done: tuple[Array, Array],
    spent: float,
    left: float,
    guard: float,
    rule: Rule,
) -> int | None:
    """The next run of the bracket, if one is due; `done` holds sizes and FLOPs of the runs so far.

    With an allowance the bracket's budget is the largest that pays all its sizes from the guard's share of the
    whole spending, and it starts when half of the other share is spent on placing it. Without one, it is the largest
    budget on offer, and a run is due whenever the guard has had less than its share.
    """
    sizes = len(rule.bracket)
    total = spent + left
    pot = rule.guard_share * total
    if np.isfinite(total):
        due = spent >= 0.5 * (1.0 - rule.guard_share) * total
        affordable = payable & (candidates.flops <= pot / sizes)
    else:
        due = guard < rule.guard_share * spent or guard == 0.0
        affordable = payable
    if not due or not affordable.any():
        return None
    top = float(candidates.flops[affordable].max())
    there = done[1] >= 0.5 * top
    if np.isfinite(total) and np.count_nonzero(there) >= sizes:
        return None
    # What was run there already takes the place of the bracket's nearest size.
    best = float(np.median(belief.draws.best_size(top)))
    wanted = [best + offset for offset in rule.bracket]
    for size in np.log(done[0][there]):
        if wanted:
            wanted.remove(min(wanted, key=lambda one: abs(one - size)))
    near_top = affordable & (candidates.flops >= 0.5 * top)
    distance = np.abs(np.log(candidates.N) - (wanted[0] if wanted else best))
    return int(np.argmin(np.where(near_top, distance, np.inf)))


def _as_chosen(
    belief: Posterior, candidates: Candidates, index: int, why: Literal["decision", "guard"], after: float
) -> Chosen:
    N, D = float(candidates.N[index]), float(candidates.D[index])
    loss = belief.draws.loss(N, D)
    return Chosen(
        index=index,
        N=N,
        D=D,
        flops=float(candidates.flops[index]),
        why=why,
        lost_after=after,
        predicted_loss=float(np.exp(np.log(loss).mean())),
        predicted_sd=float(np.sqrt(np.log(loss).var() + belief.noise**2) * loss.mean()),
    )


def _refuse(runs: Runs, candidates: Candidates, target_flops: float, num: int) -> None:
    if not (target_flops > 0 and np.isfinite(target_flops)):
        raise ValueError(
            f"a target of {target_flops:g} FLOPs; give the budget of the run to be decided, e.g. 1e22"
        )
    if len(candidates.N) == 0:
        raise ValueError("there is no candidate run; give sizes and budgets that could be run next")
    if num < 1:
        raise ValueError(f"{num} runs to choose; ask for at least 1")
    if len(runs.N) < 3:
        raise ValueError(
            f"{len(runs.N)} runs are too few to choose from; start with three of different size and length"
        )


def _why_not_stop(now: Decision, rule: Rule, checks: tuple[Check, ...]) -> str:
    if now.within < rule.confidence:
        return (
            f"the recommended size is within {rule.eps:.2%} of the best in {now.within:.0%} of the draws, not "
            f"{rule.confidence:.0%}"
        )
    if not checks:
        return "the size looks settled, but no large run has been held against its prediction yet"
    return f"the last held-out run came {checks[-1].z:+.1f} standard deviations off: the law is in doubt"


def isoflop_candidates(budgets: Any, sizes: Any, convention_k: float = K) -> Candidates:
    """Every size at every budget, as candidates."""
    C, N = (grid.ravel() for grid in np.meshgrid(np.asarray(budgets, float), np.asarray(sizes, float)))
    return Candidates(N, C / (convention_k * N), C)


def default_candidates(
    runs: Runs, target_flops: float, rule: Rule | None = None, *, seed: int = 0
) -> Candidates:
    """Runs worth offering when none are given: nine sizes around the predicted optimum, four budgets a decade.

    From the cheapest budget that was run to ten times the dearest, and never beyond the target.
    """
    belief = believe(runs, rule or Rule(), seed=seed)
    low, high = float(runs.flops.min()), min(10.0 * float(runs.flops.max()), target_flops)
    budgets = np.geomspace(low, high, max(2, 1 + round(4 * np.log10(high / low))))
    steps = np.linspace(-1.6, 1.6, 9)
    parts = [(np.exp(np.median(belief.draws.best_size(float(C))) + steps), float(C)) for C in budgets]
    N = np.concatenate([sizes for sizes, _ in parts])
    C = np.concatenate([np.full(len(steps), one) for _, one in parts])
    return Candidates(N, C / (K * N), C)


def without(candidates: Candidates, index: int) -> Candidates:
    """The candidates but for one."""
    keep = np.arange(len(candidates.N)) != index
    return Candidates(*(values[keep] for values in candidates))


def grown(runs: Runs, N: float, D: float, loss: float, flops: float) -> Runs:
    """The runs with one more."""
    return Runs(*(np.append(values, value) for values, value in zip(runs, (N, D, loss, flops), strict=True)))
