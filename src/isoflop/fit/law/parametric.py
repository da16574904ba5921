"""Fit L(N, D) = E + A/N^alpha + B/D^beta to a table of runs, with an error bar and a proof for each replicate.

`fit_law` minimises the summed loss of log-residuals (Huber by default, as Hoffmann et al. 2022, appendix D.3)
and refits a bootstrap of the table, thousands of replicates at once. Every replicate carries a certificate:
the gap to its optimum that Newton's method predicts, the scaled gradient, the curvature. The fit itself and a
sample of replicates are also compared with the best of 25 starts. What is not certified, or ends on a bound,
is counted and shown; it stays in the intervals.

Left out: reading tables (`tables`), how the answer moves with the choices made here (`sensitivity`), other
forms than this one.

Source of the procedure and of the reference numbers: Besiroglu et al. 2024 (arXiv 2404.10102), whose program
is what `benchmarks/fit.py` runs against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np

from isoflop.fit.law.checks import LawFitError, check_table
from isoflop.fit.law.draws import Block, GivenWeights, Resample, ResamplePlan
from isoflop.fit.law.newton import (
    RESOLUTION,
    Array,
    Bounds,
    Points,
    ResidualLoss,
    Solution,
    Workspace,
    minimise,
)
from isoflop.fit.law.starts import LinearPrediction, descend_by_projection, start_exponents
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.records import Certificate, Estimate, Exclusion, Fit

__all__ = ["LawFit", "LawFitError", "fit_law"]

LossFunction = Literal["huber", "squares", "lad", "student"]
PARAMETERS = ("E", "A", "B", "alpha", "beta")
GAP = 1e-9
"""A replicate is certified when the predicted relative gap to its optimum is at most this."""
LAD_DELTA = 1e-7
"""Least absolute deviations is the limit of small delta; it is approached tenfold at a time down to here."""
FEW_RUNS = 100
"""Below this many runs residuals are redrawn by default, rows from it on."""
MAX_FULL_AUDIT = 4_000_000
"""Replicates times runs up to which one miss in the sample leads to an audit of all replicates."""
RESCUES = 300
"""Doubtful replicates that are refitted from 25 starts in any case; the rest only while that helps."""
ARRIVED = 0.1
"""A start within this of a certified optimum, in every coordinate of theta, has arrived there."""
NOISELESS = 1e-9
"""Smallest scale of Student's t: scatter of the log loss below it is rounding."""
_CHUNK_ELEMENTS = 160_000
AUDIT_CHUNKS = 2
"""Chunks that an audit takes at once: its tail of slow starts is short, and shared by more rows."""


class Replicates(NamedTuple):
    """The certificate of each bootstrap replicate, [B] each."""

    objective: Array
    gap: Array
    """Predicted (objective - minimum) / objective."""
    scaled_gradient: Array
    curvature: Array
    """Smallest pivot of the Hessian scaled to unit diagonal."""
    bounded: Array
    """A parameter ended on its bound: the resample does not determine the law."""

    @property
    def certified(self) -> Array:
        """At an interior minimum to within `GAP`, [B] booleans."""
        return _is_certified(self)


@dataclass(frozen=True)
class MultistartAudit:
    """Comparison with the best of many starts."""

    starts: int
    starts_at_optimum: int
    """Of the fit's own starts, those that reached its optimum to within 1e-9."""
    audited: int
    """Certified replicates compared with the best of `starts` starts; the others claim no optimum."""
    misses: int
    """Of those, replicates that a start improved by more than 1e-9 (the better one is kept)."""
    worst_gap: float
    """Largest relative gap found among them (0 when none was audited)."""


class OptimumEstimate(NamedTuple):
    """Compute-optimal size, tokens and loss with intervals."""

    N: Estimate
    D: Estimate
    loss: Estimate


@dataclass(frozen=True)
class LawFit:
    """A fitted law, its bootstrap draws and the evidence for both."""

    law: ChinchillaLaw
    draws: Array
    """Bootstrap draws of (E, A, B, alpha, beta), [B, 5]; empty without a bootstrap."""
    objective: float
    """Sum of the residual loss at the optimum."""
    loss_function: LossFunction
    scale: float
    """Huber's delta, Student's estimated scale; 0 for least absolute deviations, inf for least squares."""
    N: Array
    D: Array
    loss: Array
    certificate: Certificate
    replicates: Replicates
    audit: MultistartAudit
    resample: str
    seed: int
    exclusions: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()
    not_identified: str | None = None

    @property
    def draws_law(self) -> ChinchillaLaw:
        """The draws as one law whose parameters are arrays [B]."""
        return _law(self.draws, self.law.k)

    @property
    def certified_share(self) -> float | None:
        """Share of replicates at a certified interior minimum; None without a bootstrap."""
        return float(np.mean(self.replicates.certified)) if len(self.draws) else None

    @property
    def degenerate_share(self) -> float | None:
        """Share of replicates with a parameter on its bound; None without a bootstrap."""
        return float(np.mean(self.replicates.bounded)) if len(self.draws) else None

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard deviation of each parameter over the draws."""
        return dict(zip(PARAMETERS, np.std(self.draws, axis=0).tolist(), strict=True))

    def residuals(self) -> Array:
        """log L of the fit minus log loss of each run, [n]."""
        return np.log(self.law.loss(self.N, self.D)) - np.log(self.loss)

    def estimate(self, quantity: Callable[[ChinchillaLaw], Any], unit: str, level: float = 0.95) -> Estimate:
        """A function of the law with its percentile interval over the draws."""
        value = float(quantity(self.law))
        if not len(self.draws):
            return Estimate(value=value, unit=unit, level=level, reason="no bootstrap was asked for")
        lo, hi = np.quantile(quantity(self.draws_law), [(1 - level) / 2, (1 + level) / 2])
        return Estimate(
            value=value,
            unit=unit,
            lo=float(lo),
            hi=float(hi),
            level=level,
            method=f"bootstrap of {self.resample}",
        )

    def optimum(self, C: float, level: float = 0.95) -> OptimumEstimate:
        """The compute-optimal model at C training FLOPs, with intervals."""
        return OptimumEstimate(
            self.estimate(lambda law: law.optimum(C).N, "parameters", level),
            self.estimate(lambda law: law.optimum(C).D, "tokens", level),
            self.estimate(lambda law: law.optimum(C).loss, "nats/token", level),
        )

    def to_record(self, level: float = 0.95, num_draws: int = 400) -> Fit:
        """The fit as the record that goes to disk, with the first `num_draws` draws for drawing."""
        parameters = {
            name: self.estimate(attrgetter(name), unit, level)
            for name, unit in zip(PARAMETERS, ("nats/token", "1", "1", "1", "1"), strict=True)
        }
        parameters["a"] = self.estimate(lambda law: law.a, "1", level)
        return Fit(
            name="parametric",
            form="L = E + A/N^alpha + B/D^beta",
            estimates=parameters,
            error_model=f"{self.loss_function} on log loss; bootstrap of {self.resample}",
            num_points=len(self.N),
            degrees_of_freedom=float(len(self.N) - 5),
            objective=self.objective,
            certificate=self.certificate,
            identified=self.not_identified is None,
            not_identified=self.not_identified,
            exclusions=self.exclusions,
            draws={
                name: tuple(column[:num_draws].tolist())
                for name, column in zip(PARAMETERS, self.draws.T, strict=True)
            },
            options={"loss_function": self.loss_function, "k": self.law.k, "seed": self.seed},
            notes=self.notes,
        )


def fit_law(
    N: Any,
    D: Any,
    loss: Any,
    *,
    loss_function: LossFunction = "huber",
    delta: float = 1e-3,
    df: float = 4.0,
    bootstrap: int = 4000,
    resample: Resample | None = None,
    cluster: Any = None,
    weights: Any = None,
    multistart: int = 500,
    seed: int = 0,
    k: float = 6.0,
    drop_highest_loss: int = 0,
    exclusions: tuple[Exclusion, ...] = (),
    check: bool = True,
) -> LawFit:
    """Fit the Chinchilla form to runs, with certified bootstrap replicates.

    Args:
        N: parameters of each run, [n], > 0. The count used here is the count of the answer.
        D: training tokens of each run, [n], > 0.
        loss: final loss in nats per token, [n], > 0; one scale for all runs.
        loss_function: "huber" (delta), "squares", "lad" or "student" (df; its scale is estimated), on
            residuals of the log loss.
        delta: where Huber's loss turns linear, in log loss.
        df: degrees of freedom of Student's t.
        bootstrap: number of replicates; 0 for none.
        resample: what is redrawn, see `isoflop.fit.law.draws`. By default "clusters" when `cluster` is
            given; else "rows" from 100 runs on, where it needs no model of the noise, and "residuals" below,
            where resampled rows leave too little of a table and give intervals that are too wide.
        cluster: group of each run, [n]: the trunk it branches from, or its model size.
        weights: bring your own resamples instead, [B, n] counts.
        multistart: replicates that are also compared with the best of 25 starts; if one of them was missed,
            all are (in tables of ordinary size).
        seed: of the resampling.
        k: FLOPs per parameter and token.
        drop_highest_loss: leave out so many runs with the highest loss (Besiroglu et al. drop 5); each is
            recorded as an exclusion.
        exclusions: what was left out before, to be carried along.
        check: False skips the refusals of `check_table` (for simulations).

    Raises:
        LawFitError: the table cannot carry the law.
    """
    N, D, loss = (np.asarray(values, dtype=float).ravel() for values in (N, D, loss))
    codes = None if cluster is None else np.unique(np.asarray(cluster), return_inverse=True)[1]
    if codes is not None and len(codes) != len(N):
        raise LawFitError(f"{len(codes)} cluster labels for {len(N)} runs: one label per run")
    if drop_highest_loss:
        keep, dropped = _without_highest(N, loss, drop_highest_loss)
        exclusions = (*exclusions, *dropped)
        N, D, loss = N[keep], D[keep], loss[keep]
        codes = None if codes is None else np.unique(codes[keep], return_inverse=True)[1]
    notes = check_table(N, D, loss) if check else ()
    engine = _Engine(N, D, loss, loss_function, delta, df)
    best, at_optimum = engine.fit()
    plan = _resample_plan(engine, best, resample, codes, weights, seed)
    solution, audit = engine.bootstrap(
        best, plan, len(weights) if weights is not None else bootstrap, multistart
    )
    audit = replace(audit, starts_at_optimum=at_optimum)
    return _assemble(
        engine, best, solution, audit, k=k, seed=seed,
        N=N, D=D, loss=loss, exclusions=exclusions, notes=notes,
        resample=plan.kind if isinstance(plan, ResamplePlan) else "given weights",
    )  # fmt: skip


def _without_highest(N: Array, loss: Array, count: int) -> tuple[Array, tuple[Exclusion, ...]]:
    order = np.argsort(loss, kind="stable")
    dropped = np.sort(order[len(loss) - count :])
    keep = np.ones(len(loss), bool)
    keep[dropped] = False
    reasons = tuple(
        Exclusion(
            what=f"run {index} (N {N[index]:.3g}, loss {loss[index]:.3g})",
            reason=f"among the {count} highest losses",
        )
        for index in dropped
    )
    return keep, reasons


def _resample_plan(
    engine: _Engine, best: Solution, resample: Resample | None, codes: Array | None, weights: Any, seed: int
) -> ResamplePlan | GivenWeights:
    if weights is not None:
        given = np.asarray(weights)
        if given.ndim != 2 or given.shape[1] != len(engine.points):
            raise LawFitError(f"weights have shape {given.shape}: expected [B, {len(engine.points)}]")
        return GivenWeights(given, engine.target)
    few = len(engine.points) < FEW_RUNS
    kind: Resample = resample or ("clusters" if codes is not None else "residuals" if few else "rows")
    if kind == "clusters":
        if codes is None:
            raise LawFitError("resampling clusters needs `cluster`: the trunk or the size of each run")
        if codes.max() < 4:
            raise LawFitError(
                f"{codes.max() + 1} clusters: a bootstrap of fewer than 5 groups says nothing; "
                'use resample="wild", or resample rows and say so'
            )
    return ResamplePlan(kind, engine.target, engine.points.log_loss(best.theta)[0], codes, seed)


class _Engine:
    """One table and one residual loss; fits it, its replicates, and the audit of both."""

    def __init__(self, N: Array, D: Array, loss: Array, kind: LossFunction, delta: float, df: float) -> None:
        self.points = Points(np.log(N), np.log(D))
        self.target = np.log(loss)
        self.kind = kind
        self.bounds = Bounds.around(self.target)
        self.df = df
        self.stages = self._stages(kind, delta)
        self.rows = max(1, _CHUNK_ELEMENTS // len(N))

    def _stages(self, kind: LossFunction, delta: float) -> tuple[ResidualLoss, ...]:
        """Residual losses to go through in turn; the last one is the one that is meant."""
        if kind == "squares":
            return (ResidualLoss("squares", np.inf),)
        if kind == "student":
            return (ResidualLoss("student", 1e-2, self.df),)
        last = LAD_DELTA if kind == "lad" else delta
        if not 0 < last <= 10:
            raise LawFitError(f"delta is {delta}: it must lie in (0, 10], in units of log loss, e.g. 1e-3")
        deltas = [last]
        while deltas[0] * 10 <= 1e-3:
            deltas.insert(0, deltas[0] * 10)
        return tuple(ResidualLoss("huber", value) for value in deltas)

    @property
    def rho(self) -> ResidualLoss:
        return self.stages[-1]

    # ------------------------------------------------------------------ one table, many starts

    def fit(self) -> tuple[Solution, int]:
        """Best of the 25 starts as a Solution of one row, and how many starts reached it."""
        ones = np.ones((1, len(self.points)))
        target = self.target[None]
        known = self._estimate_scale(target, ones) if self.kind == "student" else None
        solutions = self.multistart(target, ones)
        if known is not None:  # with a scale far below the starts' residuals, far starts may all be stranded
            also = self._through_stages(target, ones, known, None, max_iterations=200)
            solutions = Solution(*(np.concatenate(pair) for pair in zip(solutions, also, strict=True)))
        best = int(np.nanargmin(solutions.objective))
        lowest = solutions.objective[best]
        reached = int(np.sum(solutions.objective[:25] <= lowest * (1 + GAP) + 1e-25))
        return _rows(solutions, np.array([best])), reached

    def multistart(self, targets: Array, weights: Array, near: Solution | None = None) -> Solution:
        """All starts of each row, B rows of 25 in a row: [B or 1, n] -> Solution of 25 B rows.

        With `near`, the known optima of the B rows, a start that arrives next to its row's optimum takes
        that optimum over instead of walking the last steps again.
        """
        grid = start_exponents()
        num_rows, num_starts = max(len(targets), len(weights)), len(grid)
        exponents = np.tile(grid, (num_rows, 1))
        targets, weights = (
            array if len(array) == 1 else np.repeat(array, num_starts, axis=0) for array in (targets, weights)
        )
        half = Workspace(len(exponents), len(self.points), np.float32)
        theta = descend_by_projection(
            self.points, targets, weights, exponents, self.stages[0], self.bounds, half
        )
        if near is None or len(self.stages) > 1:
            return self._through_stages(targets, weights, theta, None, max_iterations=200)
        return self._arrive(targets, weights, theta, near, half)

    def _arrive(
        self, targets: Array, weights: Array, theta: Array, near: Solution, half: Workspace
    ) -> Solution:
        """Walk starts towards the known optima of their rows; those that end elsewhere go on to their own end.

        First at no cost, then by Newton's method in single precision, and in double precision for the rest.
        """
        num_starts = len(theta) // len(near.theta)
        known = _rows(near, np.repeat(np.arange(len(near.theta)), num_starts))
        rest = np.arange(len(theta))
        for steps in (0, 12):
            t, w = (array if len(array) == 1 else array[rest] for array in (targets, weights))
            reached = minimise(
                self.points,
                t,
                w,
                theta[rest],
                self.rho,
                self.bounds,
                work=half,
                max_iterations=steps,
                tolerance=1e-4,
            )
            theta[rest] = reached.theta
            rest = rest[~_arrived(reached, _rows(known, rest))]
            if not len(rest):
                return known
        t, w = (array if len(array) == 1 else array[rest] for array in (targets, weights))
        found = self._through_stages(t, w, theta[rest], None, max_iterations=200)
        for mine, theirs in zip(known, found, strict=True):
            mine[rest] = theirs
        return known

    def _through_stages(
        self, targets: Array, weights: Array, theta: Array, work: Workspace | None, max_iterations: int
    ) -> Solution:
        for stage in self.stages[:-1]:
            theta = minimise(
                self.points, targets, weights, theta, stage, self.bounds, work=work,
                max_iterations=max_iterations, tolerance=1e-6,
            ).theta  # fmt: skip
        return minimise(
            self.points,
            targets,
            weights,
            theta,
            self.rho,
            self.bounds,
            work=work,
            max_iterations=max_iterations,
        )

    def _estimate_scale(self, target: Array, ones: Array) -> Array:
        """Student's scale by maximum likelihood: s^2 = mean((df+1) r^2 / (df + r^2/s^2)), iterated with the fit."""
        scale = float(np.std(target)) / 10
        theta = None
        for _ in range(200):
            rho = ResidualLoss("student", scale, self.df)
            self.stages = (rho,)
            if theta is None:
                solutions = self.multistart(target, ones)
                theta = solutions.theta[[int(np.nanargmin(solutions.objective))]]
            theta = minimise(self.points, target, ones, theta, rho, self.bounds).theta
            r2 = (self.points.log_loss(theta)[0] - target[0]) ** 2
            new = float(np.sqrt(np.mean((self.df + 1) * r2 / (self.df + r2 / scale**2))))
            new = max(new, NOISELESS)
            if abs(new / scale - 1) < 1e-8:
                break
            scale = new
        self.stages = (ResidualLoss("student", scale, self.df),)
        assert theta is not None
        return theta

    # --------------------------------------------------------------------------- many replicates

    def bootstrap(
        self, best: Solution, plan: ResamplePlan | GivenWeights, num_replicates: int, audited: int
    ) -> tuple[Solution, MultistartAudit]:
        """Fit all replicates; audit the first `audited` of them against 25 starts, and all if one was missed."""
        prediction = LinearPrediction(self.points, best.theta[0], self.target, self.rows)
        work = Workspace(self.rows, len(self.points))
        parts, rescue = [], _Rescue()
        for block in plan.blocks(num_replicates, self.rows):
            part = self._replicates(block, prediction, work)
            self._rescue(part, block, rescue)
            parts.append(part)
        if not parts:
            return _rows(best, np.arange(0)), MultistartAudit(25, 0, 0, 0, 0.0)
        merged = Solution(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        gaps = self._audit(merged, plan, 0, min(audited, num_replicates))
        if np.any(gaps > GAP) and num_replicates * len(self.points) <= MAX_FULL_AUDIT:
            rest = self._audit(merged, plan, min(audited, num_replicates), num_replicates)
            gaps = np.concatenate([gaps, rest])
        misses = int(np.sum(gaps > GAP))
        return merged, MultistartAudit(25, 0, len(gaps), misses, float(np.max(gaps, initial=0.0)))

    def _rescue(self, part: Solution, block: Block, rescue: _Rescue) -> None:
        """Refit the doubtful replicates of a block from 25 starts, until enough of it was in vain.

        Resamples that do not determine the law have no optimum to be found from anywhere, and looking for it
        costs hundreds of times a fit. They keep what they have, and are counted as not certified.
        """
        doubtful = np.flatnonzero(~_is_certified(part))
        step = max(1, AUDIT_CHUNKS * self.rows // 25)
        for low in range(0, len(doubtful), step):
            if rescue.hopeless:
                return
            chosen = doubtful[low : low + step]
            self._improve(part, block, chosen)
            rescue.tried += len(chosen)
            rescue.helped += int(np.sum(_is_certified(_rows(part, chosen))))

    def _audit(self, merged: Solution, plan: ResamplePlan | GivenWeights, first: int, last: int) -> Array:
        """Compare the certified of replicates first .. last - 1 with the best of 25 starts, and keep the better.

        Returns the relative gaps found, one for each that was compared.
        """
        gaps = [np.zeros(0)]
        for block in plan.blocks(last, self.rows):
            rows = np.arange(max(first - block.first, 0), min(block.num_rows, last - block.first))
            if len(rows):
                part = Solution(*(column[block.first : block.first + block.num_rows] for column in merged))
                gaps.append(self._improve(part, block, rows[_is_certified(_rows(part, rows))]))
        return np.concatenate(gaps)

    def _replicates(self, block: Block, prediction: LinearPrediction, work: Workspace) -> Solution:
        theta = prediction.solve(block.targets, block.weights, self.stages[0])
        patience = 60 if len(self.stages) == 1 else 400  # a small delta has many kinks to cross
        return self._through_stages(block.targets, block.weights, theta, work, max_iterations=patience)

    def _improve(self, part: Solution, block: Block, rows: Array) -> Array:
        """Refit rows from 25 starts and keep what is better; returns the relative gaps closed, [len(rows)]."""
        closed = np.zeros(len(rows))
        per_chunk = max(1, AUDIT_CHUNKS * self.rows // 25)
        for low in range(0, len(rows), per_chunk):
            chosen = rows[low : low + per_chunk]
            targets, weights = (
                array if len(array) == 1 else array[chosen] for array in (block.targets, block.weights)
            )
            found = self.multistart(targets, weights, near=_rows(part, chosen))
            objective = np.where(np.isfinite(found.objective), found.objective, np.inf).reshape(-1, 25)
            best = np.argmin(objective, axis=1) + 25 * np.arange(len(chosen))
            old = part.objective[chosen]
            floor = np.maximum(found.objective[best], len(self.points) * RESOLUTION**2)
            gap = np.where(np.isfinite(old), (old - found.objective[best]) / floor, np.inf)
            better = (gap > GAP) | ((gap > -GAP) & ~(part.gap[chosen] <= GAP))
            for mine, theirs in zip(part, found, strict=True):
                mine[chosen[better]] = theirs[best[better]]
            closed[low : low + per_chunk] = gap
        return closed


@dataclass
class _Rescue:
    """What refitting doubtful replicates from many starts has brought so far."""

    tried: int = 0
    helped: int = 0
    """Of those, replicates that came to be certified."""

    @property
    def hopeless(self) -> bool:
        return self.tried >= RESCUES and 2 * self.helped < self.tried


def _is_certified(fits: Solution | Replicates) -> Array:
    """At an interior minimum to within `GAP`, [B] booleans."""
    with np.errstate(invalid="ignore"):
        return (fits.gap <= GAP) & (fits.curvature > 0) & ~fits.bounded


def _arrived(reached: Solution, known: Solution) -> Array:
    """Rows that are next to their certified optimum, and not below it, [B] booleans."""
    near = np.abs(reached.theta - known.theta).max(axis=1) < ARRIVED
    level = np.abs(reached.objective / np.maximum(known.objective, 1e-300) - 1) < 0.02
    certified = (known.gap <= GAP) & (known.curvature > 0)
    return near & level & certified & (reached.objective > (1 - 1e-4) * known.objective)


def _rows(solution: Solution, rows: Array) -> Solution:
    return Solution(*(column[rows] for column in solution))


def _assemble(
    engine: _Engine, best: Solution, solution: Solution, audit: MultistartAudit, *, k: float, seed: int,
    N: Array, D: Array, loss: Array, exclusions: tuple[Exclusion, ...], notes: tuple[str, ...], resample: str,
) -> LawFit:  # fmt: skip
    law = _law(engine.points.to_law(best.theta[0]), k)
    replicates = Replicates(
        solution.objective, solution.gap, solution.scaled_gradient, solution.curvature, solution.bounded
    )
    draws = engine.points.to_law(solution.theta)
    share = float(np.mean(replicates.certified)) if len(draws) else None
    objective = float(best.objective[0])
    if engine.kind == "lad":
        objective = float(np.sum(np.abs(engine.points.log_loss(best.theta)[0] - engine.target)))
    certificate = Certificate(
        converged=bool(best.gap[0] <= GAP and best.curvature[0] > 0),
        scaled_gradient=float(best.scaled_gradient[0]),
        smallest_curvature=float(best.curvature[0]),
        multistart_gap=audit.worst_gap if audit.audited else None,
        certified_share=share,
        note=f"{audit.starts_at_optimum} of {audit.starts} starts reach this optimum, none a lower one; "
        f"{audit.misses} of {audit.audited} audited replicates were improved by their 25 starts",
    )
    scale = {"squares": np.inf, "lad": 0.0}.get(engine.kind, engine.rho.scale)
    return LawFit(
        law=law, draws=draws, objective=objective, loss_function=engine.kind, scale=float(scale),
        N=N, D=D, loss=loss, certificate=certificate, replicates=replicates, audit=audit,
        resample=resample, seed=seed, exclusions=exclusions, notes=notes,
        not_identified=_not_identified(best, solution),
    )  # fmt: skip


def _law(parameters: Array, k: float) -> ChinchillaLaw:
    """[5] -> a law of floats, [B, 5] -> a law of arrays."""
    E, A, B, alpha, beta = parameters.T if parameters.ndim == 2 else parameters.tolist()
    return ChinchillaLaw(E, A, B, alpha, beta, k=k)


def _not_identified(best: Solution, solution: Solution) -> str | None:
    """The sentence why these runs do not determine the law, or None."""
    remedy = "add runs over a wider range of N and of D, or take a published law"
    if best.bounded[0]:
        return f"a parameter of the best fit lies on its bound: these runs do not determine the law; {remedy}"
    if not best.curvature[0] > 0:
        return f"the best fit is flat in at least one direction: parameters trade off freely; {remedy}"
    share = float(np.mean(solution.bounded)) if len(solution.bounded) else 0.0
    if share > 0.05:
        return f"{share:.0%} of the resampled tables end on a bound: the law hangs on single runs; {remedy}"
    return None
