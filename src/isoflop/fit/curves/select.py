"""Which simple curve fits, and could these points have told? Selection that says what was tried.

`compare_families` scores every family three ways: AICc (Hurvich and Tsai 1989; with known standard errors
the quasi-likelihood form QAIC of Burnham and Anderson 2002, section 2.5, because known errors are usually
too small), leave-one-x-out, and forward prediction (fit the smaller x, predict the next). The weights are
Akaike weights: exp(-AICc / 2), normalised; posterior probabilities of the families under the prior of
Burnham and Anderson 2004.

`analyse_design` asks what those weights are worth: it simulates every family, as fitted, at the user's own x
and noise, and counts which family is then chosen (the confusion matrix) and how often each question would
be answered rightly, wrongly or not at all. `points_needed` looks for the fewest further points, and where,
that would settle a question (the T-criterion of Atkinson and Fedorov 1975, checked by simulation).

Left out: predicting beyond the data (`extrapolate`), sentences for people (`isoflop.judge.curves`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isoflop import records
from isoflop.fit.curves.families import CurveFits, fit_curves
from isoflop.laws import curves
from isoflop.laws.curves import Array, CurveError, Family

DEFAULT_FAMILIES = tuple(name for name in curves.FAMILIES if name != "shifted_power")
"""Every family but M3, whose curves M4 holds too."""
CONFIDENT = 0.95
"""Posterior weight from which an answer counts as given."""
WRONG = 0.05
"""Largest share of simulated studies of the opposite truth that may give the same answer as confidently."""


MOST_LEFT_OUT = 40
"""A long curve is scored at so many x, evenly chosen, for the errors that need a refit each."""


@dataclass(frozen=True)
class Points:
    """One data set: x [n] sorted, y [n], standard errors or None, and how residuals are measured."""

    x: Array
    y: Array
    sigma: Array | None
    """Known standard error of each y (of ln y when relative), or None: learned from the residuals."""
    relative: bool = False

    @property
    def weights(self) -> Array | None:
        return None if self.sigma is None else 1 / self.sigma**2


@dataclass(frozen=True)
class FamilyScore:
    """One family on the user's points."""

    family: Family
    fits: CurveFits
    """With one data set."""
    aicc: float
    weight: float
    """Akaike weight among the families tried, 0 to 1."""
    sigma: float
    """Estimated (or mean known) standard deviation of a residual."""
    loo: float | None
    """Root mean squared error of leaving out one x at a time; None where a fit had too few x left."""
    forward: float | None
    """Root mean squared error of predicting the next larger x; None likewise."""

    @property
    def name(self) -> str:
        return self.family.name


@dataclass(frozen=True)
class Selection:
    """All families on the same points, best first."""

    points: Points
    scores: tuple[FamilyScore, ...]
    refused: tuple[records.Exclusion, ...]
    """Families that do not apply, each with its sentence."""
    overdispersion: float
    """How much larger than the known errors the residuals' variance is (1 when it is not, or not known)."""

    @property
    def best(self) -> FamilyScore:
        return self.scores[0]

    def score(self, name: str) -> FamilyScore:
        """The score of this family; KeyError when it was refused or not tried."""
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(name)

    @property
    def noise(self) -> Array:
        """Standard deviation of a residual at each x [n]: the known one inflated, or the weighted estimate."""
        if self.points.sigma is not None:
            return self.points.sigma * np.sqrt(self.overdispersion)
        variance = sum(score.weight * score.sigma**2 for score in self.scores)
        return np.full(len(self.points.x), np.sqrt(variance))


# ------------------------------------------------------------------------------ scoring families


def compare_families(
    x: ArrayLike,
    y: ArrayLike,
    *,
    families: Sequence[str] = DEFAULT_FAMILIES,
    sigma: ArrayLike | None = None,
    relative: bool = False,
    predictive: bool = True,
    seed: int = 0,
) -> Selection:
    """Fit and score families on one data set.

    Args:
        x, y: [n], in any order; repeated x are replicates.
        families: names; those that do not apply here are refused with a reason, not dropped.
        sigma: known standard error of y, a number or [n]; in units of ln y when relative.
        relative: residuals are ln y - ln f.
        predictive: also leave-one-x-out and forward errors.
        seed: of the independent starts.

    Raises:
        CurveError: no family applies, all x are the same, or numbers are not finite.
    """
    points = _as_points(x, y, sigma, relative)
    if len(np.unique(points.x)) < 2:
        raise CurveError("all points have the same x: there is no curve to choose; add points at another x")
    refused: list[records.Exclusion] = []
    fitted: list[CurveFits] = []
    for name in families:
        family = curves.find(name)
        reason = why_not(family, points)
        if reason:
            refused.append(records.Exclusion(what=name, reason=reason))
            continue
        fitted.append(_fit(family, points, seed))
    if not fitted:
        raise CurveError(_nothing_to_judge(points, refused))
    objective = np.array([fits.objective[0] for fits in fitted])[:, None]
    num = np.array([fits.family.num_parameters for fits in fitted])
    dispersion = overdispersion(objective, num, points)
    aicc = information(objective, num, points, dispersion)[:, 0]
    weights = akaike_weights(aicc)
    scores = [_score(fits, points, aicc[i], weights[i], predictive, seed) for i, fits in enumerate(fitted)]
    scores.sort(key=lambda score: (-score.weight, score.family.num_parameters))
    return Selection(points, tuple(scores), tuple(refused), float(dispersion[0]))


def _nothing_to_judge(points: Points, refused: Sequence[records.Exclusion]) -> str:
    fewest = points_to_judge(curves.find("constant"), points)
    if len(points.x) >= fewest or "constant" not in {r.what for r in refused}:
        return "no family can be judged on these points: " + "; ".join(r.reason for r in refused)
    known = "" if points.sigma is not None else ", or give the standard error of each (sigma)"
    return (
        f"{len(points.x)} points are too few to judge a curve: the constant needs {fewest} and each further "
        f"parameter one more; add points{known}"
    )


def points_to_judge(family: Family, points: Points) -> int:
    """Fewest points on which this family can be judged: more are needed where the noise has to be learned too."""
    return family.num_parameters + (1 if points.sigma is not None else 3)


def _as_points(x: ArrayLike, y: ArrayLike, sigma: ArrayLike | None, relative: bool) -> Points:
    x_n, y_n = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    if len(x_n) != len(y_n):
        raise CurveError(f"{len(x_n)} x but {len(y_n)} y: each point needs both")
    if not (np.isfinite(x_n).all() and np.isfinite(y_n).all()):
        raise CurveError("x and y must be finite; leave a missing score out and say why")
    order = np.argsort(x_n, kind="stable")
    spread = None
    if sigma is not None:
        spread = np.broadcast_to(np.asarray(sigma, dtype=float), x_n.shape)[order].copy()
        if np.any(~(spread > 0)):
            raise CurveError("each known standard error must be above 0; leave sigma out when it is unknown")
    return Points(x_n[order], y_n[order], spread, relative)


def why_not(family: Family, points: Points) -> str | None:
    """The sentence why a family cannot be judged on these points, or None."""
    distinct, num = len(np.unique(points.x)), len(points.x)
    needed = points_to_judge(family, points)
    if family.variable == "log" and points.x[0] <= 0:
        return f"{family.name}: needs x > 0, the smallest x is {points.x[0]:g}"
    if distinct < family.num_parameters:
        return (
            f"{family.name}: fewer points than parameters ({family.num_parameters} parameters, "
            f"{distinct} distinct x)"
        )
    if num < needed:
        return (
            f"{family.name}: {family.num_parameters} parameter{'s' if family.num_parameters > 1 else ''} "
            f"need{'s' if family.num_parameters == 1 else ''} at least {needed} points to be judged, there are {num}"
        )
    if family.unit_interval and (points.y.min() <= 0 or points.y.max() >= 1):
        return f"{family.name}: needs scores strictly between 0 and 1"
    return None


def _fit(family: Family, points: Points, seed: int) -> CurveFits:
    return fit_curves(
        points.x, points.y, family, weights=points.weights, relative=points.relative,
        num_starts=6, num_checks=6, max_steps=200, seed=seed,
    )  # fmt: skip


def overdispersion(objective: Array, num_parameters: Array, points: Points) -> Array:
    """c-hat [B], at least 1: chi-square per degree of freedom of the family where it is smallest.

    `objective` is [F, B]. All 1 when the errors are not known: then their size is estimated anyway.
    """
    if points.sigma is None:
        return np.ones(objective.shape[1])
    freedom = len(points.x) - num_parameters
    ratio = np.where(freedom[:, None] > 0, objective / np.maximum(freedom, 1)[:, None], np.inf)
    return np.asarray(np.maximum(1.0, ratio.min(axis=0)))


def information(objective: Array, num_parameters: Array, points: Points, dispersion: Array) -> Array:
    """AICc [F, B] (QAICc with known errors) from weighted sums of squares [F, B]."""
    n = len(points.x)
    if points.sigma is not None:
        k = num_parameters[:, None]
        correction = np.where(n > k + 1, 2 * k * (k + 1) / np.maximum(n - k - 1, 1), 0.0)
        # With errors known to be right (c-hat 1) the small-sample term is not needed: AIC is exact for
        # linear curves. It belongs to an estimated variance.
        return np.asarray(objective / dispersion + 2 * k + np.where(dispersion > 1, correction, 0.0))
    k = num_parameters[:, None] + 1
    size = np.sum(np.log(points.y) ** 2 if points.relative else points.y**2)
    floor = 1e-24 * size + 1e-300  # an exact fit must not win by the logarithm of rounding errors
    log_variance = np.log(np.maximum(objective, floor) / n)
    return np.asarray(n * log_variance + 2 * k + 2 * k * (k + 1) / np.maximum(n - k - 1, 1))


def akaike_weights(aicc: Array) -> Array:
    """exp(-aicc / 2), normalised over the first axis."""
    relative = np.exp(-(aicc - aicc.min(axis=0)) / 2)
    return np.asarray(relative / relative.sum(axis=0))


def _score(
    fits: CurveFits, points: Points, aicc: float, weight: float, predictive: bool, seed: int
) -> FamilyScore:
    freedom = max(len(points.x) - fits.family.num_parameters, 1)
    if points.sigma is None:
        sigma = float(np.sqrt(fits.objective[0] / freedom))
    else:
        sigma = float(np.sqrt(np.mean(points.sigma**2)))
    loo = leave_one_out(fits, points) if predictive else None
    forward = forward_error(fits.family, points, seed) if predictive else None
    return FamilyScore(fits.family, fits, float(aicc), float(weight), sigma, loo, forward)


def _refit_without(fits: CurveFits, points: Points, keep: NDArray[np.bool_]) -> CurveFits:
    """Refits [R] on the points that `keep` [R, n] marks."""
    weights = keep * (1.0 if points.weights is None else points.weights)
    y = np.broadcast_to(points.y, keep.shape)
    return fit_curves(
        points.x, y, fits.family, weights=weights, relative=points.relative,
        num_starts=2, num_checks=0, warm=fits, max_steps=60,
    )  # fmt: skip


def _errors(fits: CurveFits, points: Points) -> Array:
    """Residuals [R, n] on the scale of the fit; NaN where a relative prediction is not positive."""
    y = fits.predict(points.x)
    if not points.relative:
        return points.y - y
    return np.asarray(np.log(points.y) - np.log(np.where(y > 0, y, np.nan)))


def leave_one_out(fits: CurveFits, points: Points) -> float | None:
    """Root mean squared error at each distinct x when its points are left out; None with too few x."""
    levels = np.unique(points.x)
    if len(levels) - 1 < fits.family.num_parameters:
        return None
    if len(levels) > MOST_LEFT_OUT:
        levels = levels[np.linspace(0, len(levels) - 1, MOST_LEFT_OUT).round().astype(int)]
    out = points.x[None, :] == levels[:, None]
    errors = _errors(_refit_without(fits, points, ~out), points)[out]
    return float(np.sqrt(np.mean(errors**2))) if np.isfinite(errors).all() else None


def forward_error(family: Family, points: Points, seed: int = 0) -> float | None:
    """Root mean squared error of predicting each distinct x of the upper half from all smaller ones.

    None when the family has more parameters than the lower half has distinct x, or when a prediction is
    not a number on this scale.
    """
    levels = np.unique(points.x)
    first = max((len(levels) + 1) // 2, min(3, len(levels) - 1))
    if first < family.num_parameters:
        return None
    ahead = levels[first:]
    if len(ahead) > MOST_LEFT_OUT:
        ahead = ahead[np.linspace(0, len(ahead) - 1, MOST_LEFT_OUT).round().astype(int)]
    target = points.x[None, :] == ahead[:, None]
    keep = points.x[None, :] < ahead[:, None]
    weights = keep * (1.0 if points.weights is None else points.weights)
    fits = fit_curves(
        points.x, np.broadcast_to(points.y, keep.shape), family, weights=weights,
        relative=points.relative, num_starts=4, num_checks=0, max_steps=60, seed=seed,
    )  # fmt: skip
    errors = _errors(fits, points)[target]
    return float(np.sqrt(np.mean(errors**2))) if np.isfinite(errors).all() else None


# ------------------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Question:
    """A yes-or-no question about the curve; each fitted family is on one side."""

    name: str
    text: str
    yes: str
    no: str
    member: Callable[[CurveFits], NDArray[np.bool_]]
    """[B] True where this fitted curve says yes."""
    can_say_yes: tuple[str, ...]
    """Families of which some member says yes; without one of them the question is not asked of the data."""


def levels_off(fits: CurveFits) -> NDArray[np.bool_]:
    """[B] whether the fitted curve has a finite limit as x grows, other than a power law's 0."""
    name, nu = fits.family.name, fits.nu
    if name in ("constant", "shifted_power", "logit", "logistic", "m4"):
        return np.ones(len(nu), dtype=bool)
    if name in ("power_offset", "exponential", "double_descent"):
        return np.asarray(nu[:, 0] < 0)
    if name == "broken_power":
        return np.asarray(nu[:, 0] + nu[:, 1] > 0)
    return np.zeros(len(nu), dtype=bool)


def is_sudden(fits: CurveFits) -> NDArray[np.bool_]:
    """[B] whether over half of the whole change falls within a tenth of the data's range of log x.

    This is the definition of a jump used here. A logistic does it when steep, a broken power law or bump
    when sharp; straight lines and power laws never do. Families of x are judged on log x too where x > 0.
    """
    if fits.family.name not in _BENDING:
        return np.zeros(len(fits.nu), dtype=bool)
    lower, upper = _data_range(fits)
    u = np.linspace(0, 1, 101)
    y = fits.predict(lower[:, None] * (upper / lower)[:, None] ** u)
    steps = np.abs(np.diff(y, axis=1))
    window = np.cumsum(np.concatenate([np.zeros((len(y), 1)), steps], axis=1), axis=1)
    return np.asarray(
        (window[:, 10:] - window[:, :-10]).max(axis=1) > 0.5 * np.maximum(window[:, -1], 1e-300)
    )


def _data_range(fits: CurveFits) -> tuple[Array, Array]:
    return fits.x_range[:, 0], fits.x_range[:, 1]


def _named(*names: str) -> Callable[[CurveFits], NDArray[np.bool_]]:
    return lambda fits: np.full(len(fits.nu), fits.family.name in names)


def _explosive(fits: CurveFits) -> NDArray[np.bool_]:
    if fits.family.name != "exponential":
        return np.zeros(len(fits.nu), dtype=bool)
    return np.asarray(fits.nu[:, 0] > 0)


_CHANGING = tuple(name for name in curves.FAMILIES if name != "constant")
_LEVELLING = (
    "power_offset", "shifted_power", "exponential", "logit", "logistic", "m4", "broken_power", "double_descent",
)  # fmt: skip
_BENDING = ("logit", "logistic", "m4", "broken_power", "double_descent")

QUESTIONS: tuple[Question, ...] = (
    Question(
        "changes",
        "Does y change with x at all?",
        "y changes with x",
        "y does not change with x",
        lambda fits: ~_named("constant")(fits),
        _CHANGING,
    ),
    Question(
        "straight",
        "Is it a straight line in x?",
        "a straight line in x",
        "not a straight line in x",
        _named("linear"),
        ("linear",),
    ),
    Question(
        "straight_log",
        "Is it a straight line in log x?",
        "a straight line in log x",
        "not a straight line in log x",
        _named("log"),
        ("log",),
    ),
    Question(
        "levels_off",
        "Does it level off (at a limit other than 0)?",
        "it levels off at a finite limit",
        "it keeps changing without limit",
        levels_off,
        _LEVELLING,
    ),
    Question(
        "sudden",
        "Is there a jump (over half of the change within a tenth of the range of log x)?",
        "a jump",
        "no jump: the change is gradual",
        is_sudden,
        _BENDING,
    ),
    Question(
        "explosive",
        "Does it grow exponentially in x?",
        "exponential growth in x",
        "not exponential growth in x",
        _explosive,
        ("exponential",),
    ),
)


# --------------------------------------------------------------------------------- design analysis


@dataclass(frozen=True)
class Answer:
    """What the points say to one question, and what they could have said."""

    question: Question
    weight_yes: float
    """Posterior weight of the families that say yes."""
    yes: FamilyScore | None
    """The best family that says yes; None when none of those tried does."""
    no: FamilyScore | None
    power_yes: float | None
    """Share of simulated studies in which `yes` is the truth that give a confident yes."""
    power_no: float | None
    """Share of simulated studies in which `no` is the truth that give a confident no."""
    wrong: float | None
    """Share of simulated studies of the opposite truth that give the data's answer as confidently."""
    asked: bool
    """A family that could say yes was tried on these points."""

    @property
    def decided(self) -> bool:
        """The weight is confident, and the opposite truth would rarely look so (or fits nowhere)."""
        confident = max(self.weight_yes, 1 - self.weight_yes) >= CONFIDENT
        return self.asked and confident and (self.wrong is None or self.wrong <= WRONG)

    @property
    def says(self) -> str:
        return self.question.yes if self.weight_yes >= 0.5 else self.question.no


@dataclass(frozen=True)
class Design:
    """What these x and this noise can tell apart."""

    families: tuple[str, ...]
    confusion: Array
    """[F truth, F chosen] shares of the simulated studies; rows sum to 1."""
    num_replicates: int
    answers: tuple[Answer, ...]

    def cannot_tell(self, name: str) -> tuple[str, ...]:
        """Families that are chosen in over a tenth of the studies where this one is the truth."""
        row = self.confusion[self.families.index(name)]
        return tuple(f for f, share in zip(self.families, row, strict=True) if f != name and share > 0.1)


def analyse_design(
    selection: Selection,
    *,
    questions: Sequence[Question] = QUESTIONS,
    num_replicates: int | None = None,
    seed: int = 0,
) -> Design:
    """Simulate every family, as fitted, at the same x with the same noise, and select again.

    Args:
        selection: families fitted to the user's points.
        questions: what to answer.
        num_replicates: simulated studies a family; fewer for long data by default (16 to 40).
        seed: of the noise.
    """
    points = selection.points
    num_R = num_replicates or int(np.clip(600 // len(points.x), 16, 40))
    weights_FTR, yes_QFTR = _simulate(selection, questions, num_R, seed)
    chosen = np.argmax(weights_FTR, axis=0)
    num_F = len(selection.scores)
    confusion = np.stack([np.bincount(row, minlength=num_F) / num_R for row in chosen])
    answers = [
        _answer(question, selection, weights_FTR, yes)
        for question, yes in zip(questions, yes_QFTR, strict=True)
    ]
    return Design(tuple(s.name for s in selection.scores), confusion, num_R, tuple(answers))


def _simulate(
    selection: Selection, questions: Sequence[Question], num_R: int, seed: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Weights [F, T, R] of every family on every simulated study, and its side of each question [Q, F, T, R]."""
    points, scores = selection.points, selection.scores
    rng = np.random.default_rng(seed)
    noise = selection.noise * rng.normal(size=(num_R, len(points.x)))
    truth = np.stack([score.fits.predict(points.x)[0] for score in scores])
    y_TRn = truth[:, None] * np.exp(noise) if points.relative else truth[:, None] + noise
    y_Mn = y_TRn.reshape(-1, len(points.x))
    fitted = [_refit(score, points, y_Mn) for score in scores]
    objective = np.stack([fits.objective for fits in fitted])
    num = np.array([score.family.num_parameters for score in scores])
    dispersion = overdispersion(objective, num, points)
    weights = akaike_weights(information(objective, num, points, dispersion))
    yes = np.stack([[question.member(fits) for fits in fitted] for question in questions])
    shape = (len(scores), num_R)
    return weights.reshape(len(scores), *shape), yes.reshape(len(questions), len(scores), *shape)


def _refit(score: FamilyScore, points: Points, y_Mn: Array) -> CurveFits:
    """This family on simulated data, which for the scores of a bounded family may leave its range."""
    return fit_curves(
        points.x, y_Mn, score.family, weights=points.weights, relative=points.relative,
        num_starts=2, num_checks=0, warm=score.fits, max_steps=25,
    )  # fmt: skip


def _answer(
    question: Question, selection: Selection, weights_FTR: Array, yes_FTR: NDArray[np.bool_]
) -> Answer:
    says = [bool(question.member(score.fits)[0]) for score in selection.scores]
    weight_yes = float(sum(score.weight for score, yes in zip(selection.scores, says, strict=True) if yes))
    weight_TR = np.sum(weights_FTR * yes_FTR, axis=0)
    places: dict[bool, int | None] = {True: None, False: None}
    for index, yes in enumerate(says):
        if places[yes] is None:
            places[yes] = index
    for_yes, for_no = places[True], places[False]
    best_yes, best_no = (selection.scores[i] if i is not None else None for i in (for_yes, for_no))
    power_yes = power_no = wrong = None
    if for_yes is not None:
        power_yes = float(np.mean(weight_TR[for_yes] >= CONFIDENT))
    if for_no is not None:
        power_no = float(np.mean(weight_TR[for_no] <= 1 - CONFIDENT))
    if for_yes is not None and for_no is not None:
        as_sure = weight_TR[for_no] >= weight_yes if weight_yes >= 0.5 else weight_TR[for_yes] <= weight_yes
        wrong = float(np.mean(as_sure))
    asked = any(score.name in question.can_say_yes for score in selection.scores)
    return Answer(question, weight_yes, best_yes, best_no, power_yes, power_no, wrong, asked)


# ------------------------------------------------------------------------------------ more points


@dataclass(frozen=True)
class MorePoints:
    """The fewest further points found that would tell two fitted curves apart."""

    question: str
    families: tuple[str, str]
    """The best family that says yes and the best that says no."""
    can_be_shown: tuple[str, ...]
    """Those of the two that the points would show if true; a special case of the other never can be."""
    num: int
    x: tuple[float, ...]
    """Where: distinct places; the points are spread evenly over them."""
    within_range: bool
    power: float
    """Share of simulated studies with these points that favour the truth by 19 to 1, the worse of the two."""


def points_needed(
    selection: Selection,
    answer: Answer,
    *,
    most: int = 200,
    reach: float = 100.0,
    limits: tuple[float, float] | None = None,
    seed: int = 0,
) -> MorePoints | None:
    """The fewest further points that would decide between the best families of either side.

    Args:
        selection: with the points there are.
        answer: an undecided one.
        most: give up above so many points.
        reach: how many times beyond the largest (and a tenth of it below the smallest) x may be tried.
        limits: values that y can take; a place where either curve leaves them is no test of it. One range of
            the data beyond their ends when missing.
        seed: of the check by simulation.

    Returns:
        The cheapest design, or None when no design within these limits decides or one side has no family.
    """
    if answer.yes is None or answer.no is None:
        return None
    pair = (answer.yes, answer.no)
    designs = _candidate_designs(selection.points, most, reach)
    designs = [design for design in designs if _possible(selection.points, pair, design[0], limits)]
    if not designs:
        return None
    strengths = [_separation(selection, pair[i], pair[1 - i], designs) for i in (0, 1)]
    # Where one curve holds the other as a special case, only the larger one can be shown to be needed.
    truths = tuple(i for i in (0, 1) if strengths[i].max() > 1e-6)
    if not truths:
        return None
    strong = np.min([strengths[i] for i in truths], axis=0)
    enough = np.flatnonzero(strong >= 1.0)
    order = sorted(enough, key=lambda i: (designs[i][1], not designs[i][2], -strong[i]))
    best: MorePoints | None = None
    for index in order[:6]:
        places, num, inside = designs[index]
        power = _power_with(selection, pair, truths, places, num, seed)
        names = (pair[0].name, pair[1].name)
        shown = tuple(names[i] for i in truths)
        found = MorePoints(answer.question.name, names, shown, num, tuple(places), inside, power)
        if power >= 0.8:
            return found
        best = found if best is None or power > best.power else best
    return best if best is not None and best.power >= 0.6 else None


def _candidate_designs(points: Points, most: int, reach: float) -> list[tuple[Array, int, bool]]:
    """(places, number of points, within the range of x): one place, or a spread of places."""
    lo, hi = points.x[0], points.x[-1]
    if lo > 0:
        inside = np.geomspace(lo, hi, 9)
        outside = np.array([f * hi for f in (2.0, 5.0, 10.0, 30.0, 100.0) if f <= reach] + [lo / 3, lo / 10])
        spans = [np.geomspace(lo, hi, 8), np.geomspace(hi, min(10.0, reach) * hi, 5)[1:]]
    else:
        width = hi - lo
        inside = np.linspace(lo, hi, 9)
        outside = np.array([hi + width * f for f in (0.5, 1.0, 3.0, 9.0)] + [lo - width / 2])
        spans = [np.linspace(lo, hi, 8), np.linspace(hi, hi + 3 * width, 5)[1:]]
    counts = [k for k in (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200) if k <= most]
    designs = []
    for k in counts:
        designs += [(np.array([x]), k, True) for x in inside]
        designs += [(np.array([x]), k, False) for x in outside]
        designs += [(span, k, i == 0) for i, span in enumerate(spans) if k >= len(span)]
    return designs


def _possible(
    points: Points, pair: tuple[FamilyScore, FamilyScore], places: Array, limits: tuple[float, float] | None
) -> bool:
    """Whether both curves stay within what y can be at these places."""
    span = float(np.ptp(points.y))
    lo, hi = limits or (float(points.y.min()) - span, float(points.y.max()) + span)
    with np.errstate(over="ignore", invalid="ignore"):
        y = np.stack([score.fits.predict(places)[0] for score in pair])
    return bool(np.all((y >= lo) & (y <= hi)))


def _separation(
    selection: Selection, truth: FamilyScore, rival: FamilyScore, designs: list[tuple[Array, int, bool]]
) -> Array:
    """How far each design separates rival from truth, as a share of what 90 % power at 19 to 1 needs.

    The rival is fitted to the noise-free truth; the weighted sum of squares that stays is the
    noncentrality lambda, and the difference of chi-squares is then about lambda +- 2 sqrt(lambda).
    """
    points = selection.points
    sigma_new = float(np.mean(selection.noise))
    most = max(len(places) for places, _num, _inside in designs)
    n = len(points.x)
    x = np.tile(np.concatenate([points.x, np.full(most, points.x[-1])]), (len(designs), 1))
    weights = np.zeros_like(x)
    weights[:, :n] = 1 / selection.noise**2
    for row, (places, num, _inside) in enumerate(designs):
        x[row, n : n + len(places)] = places
        weights[row, n : n + len(places)] = num / len(places) / sigma_new**2
    y = truth.fits.predict(x.ravel())[0].reshape(x.shape)
    if points.relative and np.any(y <= 0):
        weights = np.where(y > 0, weights, 0.0)
    fits = fit_curves(
        x, y, rival.family, weights=weights, relative=points.relative, num_starts=2, num_checks=0,
        warm=rival.fits, max_steps=40,
    )  # fmt: skip
    penalty = 2.0 * (truth.family.num_parameters - rival.family.num_parameters)
    threshold = max(2 * np.log(19.0) + penalty, 0.0)
    needed = (1.2816 + np.sqrt(1.2816**2 + threshold)) ** 2
    return np.asarray(fits.objective / needed)


def _power_with(
    selection: Selection,
    pair: tuple[FamilyScore, FamilyScore],
    truths: tuple[int, ...],
    places: Array,
    num: int,
    seed: int,
) -> float:
    """Share of simulated studies with the further points in which the truth leads by 19 to 1."""
    points = selection.points
    extra = np.resize(np.asarray(places), num)
    x = np.concatenate([points.x, extra])
    noise = np.concatenate([selection.noise, np.full(num, np.mean(selection.noise))])
    order = np.argsort(x, kind="stable")
    known = noise[order] if points.sigma is not None else None
    more = Points(x[order], np.zeros(len(x)), known, points.relative)
    rng = np.random.default_rng(seed)
    draws = noise[order] * rng.normal(size=(40, len(x)))
    rates = []
    for truth in truths:
        y = pair[truth].fits.predict(more.x)[0]
        if points.relative and np.any(y <= 0):
            return 0.0
        simulated = y * np.exp(draws) if points.relative else y + draws
        fitted = [_refit(score, more, simulated) for score in pair]
        objective = np.stack([fits.objective for fits in fitted])
        count = np.array([score.family.num_parameters for score in pair])
        reference = Points(more.x, y, known, points.relative)
        weights = akaike_weights(information(objective, count, reference, np.ones(objective.shape[1])))
        rates.append(float(np.mean(weights[truth] >= CONFIDENT)))
    return min(rates)
