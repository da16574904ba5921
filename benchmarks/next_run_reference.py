"""Is the yardstick of `next_run.py` sound? The whole table's own estimate, and what a tenth of its FLOPs can reach.

Called by `next_run.py TABLE --reference`. The replay asks that log N* from a tenth of a sweep's FLOPs lie within the
95 % half-width of the whole sweep's estimate. Two questions about that demand, answered with the table alone:

1. How far does the whole table's estimate move between forms that a careful person could choose? A half-width
   that assumes one form says nothing about it. Adding the variance between forms to that within the reference's
   form, as a random-effects summary does (DerSimonian and Laird 1986), gives one that does.
2. What could any choice of runs reach with that compute? Three answers. If the five-parameter law were exact, the
   design of least variance for log N* (c-optimal, Fedorov 1972; found by greedy choice and exchange, knowing the law)
   bounds every unbiased rule: an efficient estimate from part of the runs differs from the whole's by a variance of
   v_part - v_whole. The reference's own estimator (Huber, five parameters) on that design, and on many random subsets
   from cheap ones to dear ones, shows what the table's departures from the law add.

Left out: which of the forms is right. A table alone does not say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from isoflop.fit.isoflop.parabola import ParabolaDesign, parabola_interval
from isoflop.fit.law.checks import LawFitError
from isoflop.fit.law.few_runs import Prior, posterior
from isoflop.fit.law.parametric import fit_law
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.plan.next_run import K, Runs

Array = np.ndarray
BOOTSTRAP = 1000
DRAWS = 1000
POWERS = (0.0, 0.5, 1.0, 2.0)
"""Random subsets take runs in an order that favours cost^power: 0 is blind to the cost, 2 takes the dearest first."""
HIGHEST = 0.05
"""Share of the runs with the highest losses that one of the forms leaves out (Besiroglu et al. drop 5 of 245)."""


PARABOLA = "a parabola per budget, a power law"


class Form(NamedTuple):
    """The whole table's log N* under one form."""

    name: str
    log_N: float
    draws: Array
    """Of log N*, [B]."""

    @property
    def half_width(self) -> float:
        low, high = np.quantile(self.draws, (0.025, 0.975))
        return 0.5 * float(high - low)


# ------------------------------------------------------------------------------------------- forms


def whole_table_forms(
    runs: Runs, target: float, seed: int = 0, *, bootstrap: int = BOOTSTRAP, check: bool = True
) -> list[Form]:
    """Every form that the table can carry; `check` as in `fit_law`."""
    forms = []
    options: list[tuple[str, dict[str, Any]]] = [
        ("five parameters, Huber", {}),
        ("five parameters, least squares", {"loss_function": "squares"}),
        ("five parameters, Huber, without the highest losses", {"drop_highest_loss": _few(runs)}),
    ]
    for name, changes in options:
        try:
            fit = fit_law(
                runs.N,
                runs.D,
                runs.loss,
                bootstrap=bootstrap,
                multistart=0,
                seed=seed,
                check=check,
                **changes,
            )
        except LawFitError:
            continue
        sizes = np.log(fit.draws_law.optimum(target).N)
        forms.append(Form(name, float(np.log(fit.law.optimum(target).N)), sizes))
    forms += _parabolas(runs, target, seed)
    belief = posterior(runs.N, runs.D, runs.loss, prior=Prior(form_floor=0.5), num_draws=2 * DRAWS, seed=seed)
    sizes, bent = belief.draws.best_size(target), belief.draws.P != 0
    for name, part in (("five parameters, posterior", ~bent), ("second order, posterior", bent)):
        forms.append(Form(name, float(np.median(sizes[part])), sizes[part]))
    return forms


def _few(runs: Runs) -> int:
    return max(1, round(HIGHEST * len(runs.N)))


def _parabolas(runs: Runs, target: float, seed: int) -> list[Form]:
    """Approach 2: a parabola per budget and a power law; draws from its residual bootstrap."""
    design = ParabolaDesign.of(runs.N, runs.flops)
    if design is None:
        return []
    rng = np.random.default_rng(seed)
    value, low, high = parabola_interval(design, runs.loss[None], target, BOOTSTRAP, rng)
    if not np.all(np.isfinite([value[0], low[0], high[0]])):
        return []
    # The interval's ends stand for its draws: a normal with the same half-width.
    sd = 0.5 * (high[0] - low[0]) / 1.96
    draws = 0.5 * (high[0] + low[0]) + sd * rng.standard_normal(DRAWS)
    return [Form(PARABOLA, float(value[0]), draws)]


class Spread(NamedTuple):
    """The whole table's log N* when the form is not taken for granted."""

    log_N: float
    """Mean over forms."""
    half_width: float


def fitted_at_once(forms: list[Form]) -> Array:
    """log N* of the forms that fit all runs at once."""
    return np.array([form.log_N for form in forms if form.name != PARABOLA])


def with_the_form(half_width: float, values: Array) -> Spread:
    """Variance within the reference's form plus variance between forms, as in a random-effects summary.

    Within: the half-width of one form, over 1.96. Between: of the forms' estimates, those that fit all runs at once;
    a power law through the minima of parabolas may extrapolate anywhere, and would widen anything.
    """
    total = (half_width / 1.96) ** 2 + float(np.var(values, ddof=1))
    return Spread(float(np.mean(values)), 1.96 * float(np.sqrt(total)))


# ---------------------------------------------------------------------------------------- subsets


def law_jacobian(law: ChinchillaLaw, N: Array, D: Array) -> Array:
    """Derivatives of the log loss by log E, log A, log B, log alpha, log beta, [n, 5]."""
    size, data = law.A * N**-law.alpha, law.B * D**-law.beta
    loss = law.E + size + data
    columns = (law.E + 0 * N, size, data, -law.alpha * np.log(N) * size, -law.beta * np.log(D) * data)
    return np.stack([column / loss for column in columns], axis=1)


def size_gradient(law: ChinchillaLaw, target: float, step: float = 1e-5) -> Array:
    """Derivatives of log N* at the target by the same five, [5]; central differences."""
    point = np.log([law.E, law.A, law.B, law.alpha, law.beta])

    def log_size(values: Array) -> float:
        _, A, B, alpha, beta = np.exp(values)
        return float((np.log(alpha * A / (beta * B)) + beta * np.log(target / K)) / (alpha + beta))

    return np.array(
        [(log_size(point + step * e) - log_size(point - step * e)) / (2 * step) for e in np.eye(5)]
    )


class Design(NamedTuple):
    """A subset of the runs, and the variance of log N* from it, per unit of noise variance."""

    chosen: Array
    """[n] booleans."""
    variance: float


def best_design(jacobian: Array, gradient: Array, flops: Array, allowance: float) -> Design:
    """The subset within the allowance that leaves the least variance, by greedy choice and exchange.

    A local optimum: the least of five greedy starts, each improved by taking one run out and filling up again until
    nothing improves. A tiny ridge stands for a prior, so that the first choices are defined.
    """
    best = Design(np.zeros(len(flops), dtype=bool), np.inf)
    for power in (0.0, 0.3, 0.5, 0.7, 1.0):
        found = _filled(jacobian, gradient, flops, allowance, np.zeros(len(flops), dtype=bool), power)
        for _ in range(40):
            better = _exchanged(jacobian, gradient, flops, allowance, found)
            if better is None:
                break
            found = better
        best = found if found.variance < best.variance else best
    return best


def _filled(
    jacobian: Array,
    gradient: Array,
    flops: Array,
    allowance: float,
    chosen: Array,
    power: float,
    but: int = -1,
) -> Design:
    """Add the run that lowers the variance most per cost^power, as long as one can be paid."""
    chosen = chosen.copy()
    information = 1e-6 * np.eye(jacobian.shape[1]) + jacobian[chosen].T @ jacobian[chosen]
    while True:
        left = allowance - float(flops[chosen].sum())
        open_ = np.flatnonzero(~chosen & (flops <= left) & (np.arange(len(flops)) != but))
        inverse = np.linalg.inv(information)
        if not len(open_):
            return Design(chosen, float(gradient @ inverse @ gradient))
        rows = jacobian[open_]
        moved = rows @ inverse
        gain = (moved @ gradient) ** 2 / (1.0 + np.einsum("ij,ij->i", moved, rows))
        index = int(open_[np.argmax(gain / flops[open_] ** power)])
        chosen[index] = True
        information = information + np.outer(jacobian[index], jacobian[index])


def _exchanged(
    jacobian: Array, gradient: Array, flops: Array, allowance: float, design: Design
) -> Design | None:
    for index in np.flatnonzero(design.chosen):
        fewer = design.chosen.copy()
        fewer[index] = False
        tried = _filled(jacobian, gradient, flops, allowance, fewer, 0.0, but=int(index))
        if tried.variance < design.variance * (1.0 - 1e-6):
            return tried
    return None


def random_subset(flops: Array, allowance: float, power: float, rng: np.random.Generator) -> Array:
    """Runs in random order, those of high cost^power sooner (Efraimidis and Spirakis 2006), while they can be paid."""
    keys = np.log(rng.random(len(flops))) / (flops / flops.max()) ** power
    chosen = np.zeros(len(flops), dtype=bool)
    left = allowance
    for index in np.argsort(-keys):
        if flops[index] <= left:
            chosen[index] = True
            left -= float(flops[index])
    return chosen


def estimate(runs: Runs, target: float) -> float | None:
    """log N* by the reference's own estimator; None where the runs carry no such law."""
    try:
        fit = fit_law(runs.N, runs.D, runs.loss, bootstrap=0, multistart=0, check=False)
    except LawFitError:
        return None
    value = float(np.log(fit.law.optimum(target).N))
    return value if np.isfinite(value) else None


def _few_estimate(runs: Runs, target: float) -> float:
    belief = posterior(runs.N, runs.D, runs.loss, num_draws=DRAWS)
    return float(np.median(belief.draws.best_size(target)))


# ------------------------------------------------------------------------------------------- answer


def examine(runs: Runs, target: float, share: float, subsets: int, seed: int = 0) -> dict[str, Any]:
    """Both questions for one table and target; the subsets' errors are against the five-parameter Huber fit."""
    forms = whole_table_forms(runs, target, seed)
    reference = forms[0]
    values = np.array([form.log_N for form in forms])
    spread = with_the_form(reference.half_width, fitted_at_once(forms))
    return {
        "forms": [{"name": form.name, "log_N": form.log_N, "half_width": form.half_width} for form in forms],
        "form_range": float(values.max() - values.min()),
        "form_sd": float(values.std(ddof=1)),
        "single_half_width": reference.half_width,
        "with_form_log_N": spread.log_N,
        "with_form_half_width": spread.half_width,
        "reach": reach(runs, target, share, reference, subsets, seed),
    }


def reach(
    runs: Runs, target: float, share: float, reference: Form, subsets: int, seed: int
) -> dict[str, Any]:
    """What a share of the FLOPs can reach, in log N*."""
    allowance = share * float(runs.flops.sum())
    law = fit_law(runs.N, runs.D, runs.loss, bootstrap=0, multistart=0).law
    jacobian, gradient = law_jacobian(law, runs.N, runs.D), size_gradient(law, target)
    everything = _filled(jacobian, gradient, runs.flops, np.inf, np.ones(len(runs.N), dtype=bool), 0.0)
    design = best_design(jacobian, gradient, runs.flops, allowance)
    ratio = design.variance / everything.variance
    part = Runs(*(column[design.chosen] for column in runs))
    own = estimate(part, target)
    rng = np.random.default_rng(seed)
    return {
        "variance_ratio": ratio,
        "least_rmse_in_half_widths_if_law_exact": float(np.sqrt(max(ratio - 1.0, 0.0))) / 1.96,
        "least_rmse_if_law_exact": float(np.sqrt(max(ratio - 1.0, 0.0))) / 1.96 * reference.half_width,
        "design_runs": int(design.chosen.sum()),
        "design_error": None if own is None else own - reference.log_N,
        "design_error_posterior": _few_estimate(part, target) - reference.log_N,
        "random": [_random(runs, target, allowance, power, reference, subsets, rng) for power in POWERS],
    }


def _random(
    runs: Runs,
    target: float,
    allowance: float,
    power: float,
    reference: Form,
    subsets: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    chosen = [random_subset(runs.flops, allowance, power, rng) for _ in range(subsets)]
    parts = [Runs(*(column[one] for column in runs)) for one in chosen if one.sum() >= 6]
    few = np.array([_few_estimate(part, target) for part in parts]) - reference.log_N
    return {
        "power": power,
        "subsets": len(parts),
        "runs": float(np.mean([len(part.N) for part in parts])),
        "bias": float(few.mean()),
        "rmse": float(np.sqrt(np.mean(few**2))),
        "within_single": float(np.mean(np.abs(few) <= reference.half_width)),
    }


def show(result: dict[str, Any]) -> str:
    """The same as text."""
    found = result["reference_examined"]
    reach_ = found["reach"]
    lines = [f"{result['table']}, target {result['target_flops']:.2g} FLOPs: log N* of the whole table"]
    lines += [f"  {row['name']:52}{row['log_N']:8.3f} +- {row['half_width']:.3f}" for row in found["forms"]]
    lines.append(f"  range over forms {found['form_range']:.3f}, standard deviation {found['form_sd']:.3f}")
    lines.append(
        f"with {result['share']:.0%} of the FLOPs: least RMSE if the law were exact "
        f"{reach_['least_rmse_if_law_exact']:.3f} ({reach_['least_rmse_in_half_widths_if_law_exact']:.2f} "
        f"half-widths); that design here: error {reach_['design_error']} (Huber), "
        f"{reach_['design_error_posterior']:.3f} (posterior)"
    )
    for row in reach_["random"]:
        lines.append(
            f"  random subsets, cost^{row['power']:g}: bias {row['bias']:.3f}, RMSE {row['rmse']:.3f}, "
            f"{row['within_single']:.0%} within the single form's half-width, {row['runs']:.0f} runs"
        )
    return "\n".join(lines)
