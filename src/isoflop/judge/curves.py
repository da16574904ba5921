"""Which curve, and could you tell? One answer, ready for JSON, for any table of scores.

`curve_answer` fits every simple family to the points, says which questions they decide and which they
cannot, what further points would settle those, and predicts with an interval or with odds. It also looks
at the same points on other axes, because a jump on one axis can be a straight line on another.

What is refused, and how: fewer points than parameters, x that is not positive, scores outside [0, 1] that
are called accuracy, and mixed metrics each get a sentence; nothing is dropped in silence.

Left out: the words and figures for people (`isoflop.judge.curves_view`), and whether two models differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from isoflop.fit.curves import extrapolate, loss_forecast, select
from isoflop.laws.curves import Array, CurveError, find

Kind = Literal["score", "accuracy", "loss"]

SUDDEN = "over half of the whole change falls within a tenth of the range of log x"
"""The definition of a jump that is used here; a claim of emergence must name one."""


def curve_answer(
    x: ArrayLike,
    y: ArrayLike,
    *,
    sigma: ArrayLike | None = None,
    num_items: ArrayLike | None = None,
    kind: Kind = "score",
    metric: str | Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    relative: bool | None = None,
    predict: float | Sequence[float] | None = None,
    reach: float | None = None,
    horizon: float = 1e6,
    level: float = 0.9,
    num_replicates: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit, select, analyse the design, and predict.

    Args:
        x, y: [n] in any order; repeated x are replicates.
        sigma: known standard error of y, a number or [n]; in units of ln y when `relative`.
        num_items: for accuracies: items behind each score, a number or [n]; gives sigma by the binomial.
        kind: "accuracy" must lie in [0, 1]; "loss" must be positive and has relative residuals by default.
        metric: name of the metric, or one name per row: more than one name is refused.
        families: names to try; all by default.
        relative: residuals are ln y - ln f; by default for losses only.
        predict: x (or several) at which to predict a new measurement.
        reach: y whose reaching is to be dated.
        horizon: how many times the largest x still counts as ever.
        level: of predictive intervals.
        num_replicates: simulated studies a family in the design analysis.
        seed: of all simulations.

    Returns:
        A mapping of plain lists, numbers and strings. A number that does not exist is None, with a reason
        beside it. Keys: sentence, n, families, refused, decided, cannot_decide, points_needed, confusion,
        axes, notes, drawing, and predict and reach when asked for.

    Raises:
        CurveError: input that cannot be judged; the message says what, where and the remedy.
    """
    x_n, y_n = _numbers(x, "x"), _numbers(y, "y")
    if len(x_n) != len(y_n):
        raise CurveError(f"{len(x_n)} x but {len(y_n)} y: each point needs both")
    _check_metric(metric)
    _check_kind(kind, x_n, y_n)
    spread = _sigma(sigma, num_items, kind, y_n)
    if spread is None and np.ptp(y_n) == 0:
        raise CurveError(
            f"all {len(y_n)} y are {y_n[0]:g}, so their noise cannot be learned from them: give sigma, or num_items"
        )
    is_relative = (kind == "loss") if relative is None else relative
    if is_relative and np.any(y_n <= 0):
        raise CurveError(
            f"relative residuals need y > 0, and the data hold y = {y_n.min():g}; use absolute residuals"
        )
    names = tuple(families) if families is not None else select.DEFAULT_FAMILIES
    selection = select.compare_families(
        x_n, y_n, families=names, sigma=spread, relative=is_relative, seed=seed
    )
    if families is not None:
        _refuse_asked_for(selection)
    design = select.analyse_design(selection, num_replicates=num_replicates, seed=seed)
    answer: dict[str, Any] = {
        "n": len(x_n),
        "distinct_x": len(np.unique(x_n)),
        "metric": metric if isinstance(metric, str) else (metric[0] if metric else None),
        "residuals": "relative" if is_relative else "absolute",
        "noise": float(np.mean(selection.noise)),
        "overdispersion": selection.overdispersion,
        "families": [_family_row(score, design) for score in selection.scores],
        "refused": [{"family": r.what, "reason": r.reason} for r in selection.refused],
        **_questions(selection, design, (0.0, 1.0) if kind == "accuracy" else None, seed),
        "confusion": {
            "families": list(design.families),
            "shares": design.confusion.tolist(),
            "num_replicates": design.num_replicates,
        },
        "axes": axes(x_n, y_n),
        "notes": _notes(x_n, y_n, selection),
    }
    limits = (0.0, 1.0) if kind == "accuracy" else None
    if reach is not None and limits is not None and not limits[0] <= reach <= limits[1]:
        raise CurveError(
            f"an accuracy lies in [0, 1] and never reaches {reach:g}; ask for a share, such as 0.9"
        )
    prediction = extrapolate.forecast(selection, seed=seed)
    answer["drawing"] = _drawing(selection, prediction, level, limits)
    if predict is not None:
        answer["predict"] = [
            _prediction(selection, prediction, float(place), level, limits)
            for place in np.atleast_1d(predict)
        ]
    if reach is not None:
        answer["reach"] = _reach(selection, prediction, float(reach), horizon)
    answer["sentence"] = _sentence(selection, answer)
    return clean(answer)


# --------------------------------------------------------------------------------------- input


def _numbers(values: ArrayLike, name: str) -> Array:
    try:
        array = np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError):
        raise CurveError(f"{name} holds something that is not a number: {values!r:.80}") from None
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise CurveError(
            f"{name} is {array[bad[0]]} in row {bad[0] + 1}; leave a missing score out and say why"
        )
    return array


def _check_metric(metric: str | Sequence[str] | None) -> None:
    if metric is None or isinstance(metric, str):
        return
    counts = Counter(metric)
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({count} rows)" for name, count in counts.most_common())
        raise CurveError(f"mixed metrics in one curve: {listed}; judge one metric at a time")


def _check_kind(kind: Kind, x: Array, y: Array) -> None:
    if kind == "accuracy" and np.any((y < 0) | (y > 1)):
        row = int(np.flatnonzero((y < 0) | (y > 1))[0])
        hint = "divide percentages by 100" if y.max() <= 100 and y.min() >= 0 else "it is no share of items"
        raise CurveError(
            f"an accuracy must lie in [0, 1], and row {row + 1} (x = {x[row]:g}) holds {y[row]:g}: {hint}, "
            "or call it a score (--metric score)"
        )
    if kind == "loss" and np.any(y <= 0):
        row = int(np.flatnonzero(y <= 0)[0])
        raise CurveError(
            f"a loss must be above 0, and row {row + 1} (x = {x[row]:g}) holds {y[row]:g}; mend it, or call it a "
            "score (--metric score)"
        )


def _sigma(sigma: ArrayLike | None, num_items: ArrayLike | None, kind: Kind, y: Array) -> ArrayLike | None:
    """Known standard errors: as given, or binomial with a Wilson-like floor so that 0 and 1 keep one."""
    if num_items is None:
        return sigma
    if sigma is not None:
        raise CurveError("give sigma or num_items, not both: they say the same")
    if kind != "accuracy":
        raise CurveError("num_items gives the error of an accuracy; call the scores accuracy, or give sigma")
    n = np.broadcast_to(_numbers(num_items, "num_items"), y.shape)
    if np.any(n < 1):
        raise CurveError("num_items must be at least 1 everywhere")
    share = (y * n + 1) / (n + 2)
    return np.asarray(np.sqrt(share * (1 - share) / n))


def _refuse_asked_for(selection: select.Selection) -> None:
    """A family that the user named must not vanish into a list."""
    if selection.refused:
        raise CurveError("; ".join(r.reason for r in selection.refused))


def _notes(x: Array, y: Array, selection: select.Selection) -> list[str]:
    notes = []
    levels, counts = np.unique(x, return_counts=True)
    if counts.max() > 1:
        notes.append(
            f"{int(np.sum(counts > 1))} of {len(levels)} x hold several points: taken as replicates, which tell "
            "the noise but not the curve"
        )
    repeats = len(x) - len(np.unique(np.stack([x, y], axis=1), axis=0))
    if repeats:
        notes.append(
            f"{repeats} points repeat another exactly in x and y; they are kept as measurements of their own: "
            "if they are copies, give each once, or every interval is too narrow"
        )
    if len(np.unique(y)) < len(y) - repeats:
        notes.append("some y are tied: a rounded or floored score carries less than its count suggests")
    if selection.overdispersion > 1.5:
        notes.append(
            f"the residuals' variance is {selection.overdispersion:.1f} times what the given errors allow, in "
            "every family; the errors were widened by its root"
        )
    uncertified = [s.name for s in selection.scores if not s.fits.certified[0] and s.weight > 0.01]
    if uncertified:
        notes.append("no certificate of the best fit for " + ", ".join(uncertified))
    return notes


# -------------------------------------------------------------------------------------- answers


def _family_row(score: select.FamilyScore, design: select.Design) -> dict[str, Any]:
    fits = score.fits
    return {
        "name": score.name,
        "title": score.family.title,
        "formula": score.family.formula,
        "source": score.family.source,
        "parameters": dict(zip(score.family.parameters, fits.parameters[0].tolist(), strict=True)),
        "num_parameters": score.family.num_parameters,
        "weight": score.weight,
        "aicc": score.aicc,
        "loo_error": score.loo,
        "forward_error": score.forward,
        "residual_sigma": score.sigma,
        "certified": bool(fits.certified[0]),
        "scaled_gradient": float(fits.scaled_gradient[0]),
        "multistart_gap": float(fits.multistart_gap[0]),
        "identified": not bool(fits.at_bound[0]),
        "often_taken_for": list(design.cannot_tell(score.name)),
    }


def _questions(
    selection: select.Selection, design: select.Design, limits: tuple[float, float] | None, seed: int
) -> dict[str, Any]:
    decided: list[dict[str, Any]] = []
    open_ones: list[dict[str, Any]] = []
    needed: list[dict[str, Any]] = []
    for answer in design.answers:
        row = {
            "name": answer.question.name,
            "question": answer.question.text,
            "answer": answer.says,
            "yes": answer.weight_yes >= 0.5,
            "weight": max(answer.weight_yes, 1 - answer.weight_yes),
            "wrong_rate": answer.wrong,
            "power_if_yes": answer.power_yes,
            "power_if_no": answer.power_no,
            "best_yes": answer.yes.name if answer.yes else None,
            "best_no": answer.no.name if answer.no else None,
        }
        if answer.decided:
            decided.append(row)
        else:
            because = _because(selection, answer)
            open_ones.append({**row, "answer": None, "yes": None, "leaning": answer.says, "because": because})
            needed.append(_needed(selection, answer, limits, seed))
    return {"decided": decided, "cannot_decide": open_ones, "points_needed": needed}


def _because(selection: select.Selection, answer: select.Answer) -> str:
    if not answer.asked:
        return _why_not_asked(selection, answer.question)
    weight = max(answer.weight_yes, 1 - answer.weight_yes)
    if weight < select.CONFIDENT:
        return f"both sides fit: the better one ({answer.says}) has weight {weight:.2f}"
    return (
        f"the weight for '{answer.says}' is {weight:.2f}, but the opposite truth would look so in "
        f"{answer.wrong or 0:.0%} of such studies"
    )


def _why_not_asked(selection: select.Selection, question: select.Question) -> str:
    """No family that could say yes was tried: x is not positive, or there are too few points."""
    points = selection.points
    smallest = points.x[0]
    could = [find(name) for name in question.can_say_yes]
    could = [family for family in could if family.variable == "plain" or smallest > 0]
    if not could:
        return f"it is a question about log x, and the smallest x is {smallest:g}"
    least = min(could, key=lambda family: select.points_to_judge(family, points))
    wanted = select.points_to_judge(least, points)
    if wanted <= len(points.x):
        return "no family that could say yes was tried"
    return f"the {least.title} needs {wanted} points to be judged, and there are {len(points.x)}"


def _needed(
    selection: select.Selection, answer: select.Answer, limits: tuple[float, float] | None, seed: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": answer.question.name, "question": answer.question.text}
    if not answer.asked:
        return {**row, "num": None, "reason": _why_not_asked(selection, answer.question)}
    if answer.yes is None or answer.no is None:
        missing = "yes" if answer.yes is None else "no"
        return {
            **row,
            "num": None,
            "reason": f"no family tried says {missing} here, so there is nothing to separate",
        }
    more = select.points_needed(selection, answer, limits=limits, seed=seed)
    if more is None:
        return {
            **row,
            "num": None,
            "families": [answer.yes.name, answer.no.name],
            "reason": "as fitted the two curves differ too little where y stays possible: 200 more points of this "
            "noise, up to a hundred times beyond the largest x, would not separate them",
        }
    return {
        **row,
        "num": more.num,
        "x": list(more.x),
        "within_range": more.within_range,
        "power": more.power,
        "families": list(more.families),
        "would_show": list(more.can_be_shown),
        "reason": None,
    }


# ------------------------------------------------------------------------------------ other axes


def axes(x: ArrayLike, y: ArrayLike) -> list[dict[str, Any]]:
    """How straight the points are on each pair of axes.

    Args:
        x, y: [n].

    Returns:
        One row for each pair that the numbers allow: x axis (linear, log), y axis (linear, log, logit), the
        R^2 of a straight line there and the share of the whole change in its steepest tenth of the axis (a
        straight line has a tenth; a jump most of it).
    """
    x_n, y_n = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    across = {"linear": x_n}
    if np.all(x_n > 0):
        across["log"] = np.log(x_n)
    up = {"linear": y_n}
    if np.all(y_n > 0):
        up["log"] = np.log(y_n)
    if np.all((y_n > 0) & (y_n < 1)):
        up["logit"] = np.log(y_n / (1 - y_n))
    rows = []
    for x_axis, u in across.items():
        for y_axis, v in up.items():
            total = np.sum((v - v.mean()) ** 2)
            slope = np.polyfit(u, v, 1) if np.ptp(u) > 0 else np.array([0.0, v.mean()])
            left = np.sum((v - np.polyval(slope, u)) ** 2)
            straight = float(1 - left / total) if total > 0 else None
            rows.append({"x": x_axis, "y": y_axis, "r2": straight, "steepest_tenth": _steepest_tenth(u, v)})
    return rows


def _steepest_tenth(u: Array, v: Array) -> float | None:
    """Share of the whole change of v within the steepest tenth of the u axis, points joined by lines."""
    levels = np.unique(u)
    mean = np.array([v[u == level].mean() for level in levels])
    if len(levels) < 3 or mean[0] == mean[-1]:
        return None
    fine = np.linspace(levels[0], levels[-1], 201)
    joined = np.interp(fine, levels, mean)
    return float(np.max(np.abs(joined[20:] - joined[:-20])) / np.abs(joined[-1] - joined[0]))


def per_token_score(exact_match: ArrayLike, num_tokens: float) -> Array:
    """The per-token rate p whose k-th power is the exact-match score, p = score^(1/k).

    Exact match needs all k tokens right, so a rate that rises in a straight line looks like a jump in p^k
    (Schaeffer, Miranda and Koyejo 2023, arXiv 2304.15004). Tokens are taken as independent, which is the
    assumption to question.
    """
    score = np.asarray(exact_match, dtype=float)
    if num_tokens < 1:
        raise CurveError(f"an answer has at least 1 token, not {num_tokens:g}")
    if np.any((score < 0) | (score > 1)):
        raise CurveError("an exact-match score must lie in [0, 1]")
    return np.asarray(score ** (1 / num_tokens))


def above_chance(score: ArrayLike, chance: float) -> Array:
    """(score - chance) / (1 - chance): 0 at guessing, 1 at perfect; negative below guessing."""
    if not 0 <= chance < 1:
        raise CurveError(f"the chance level must lie in [0, 1), not {chance:g}")
    return np.asarray((np.asarray(score, dtype=float) - chance) / (1 - chance))


# ----------------------------------------------------------------------------------- predictions


def _use_loss_forecast(selection: select.Selection) -> bool:
    points = selection.points
    falls = points.y[0] > points.y[-1]
    enough = len(np.unique(points.x)) >= 6
    return points.relative and falls and enough and bool(points.x[0] > 0)


def _too_few(selection: select.Selection) -> str | None:
    """Why nothing can be said beyond the points: all families that change with x were refused for want of points."""
    if not selection.refused or any(score.name != "constant" for score in selection.scores):
        return None
    line = select.points_to_judge(find("linear"), selection.points)
    return (
        f"{len(selection.points.x)} points judge the constant alone, which cannot follow a change: a straight line "
        f"needs {line}"
    )


def _within(values: Array, limits: tuple[float, float] | None) -> Array:
    """Cut at what y can be."""
    return values if limits is None else np.clip(values, *limits)


def _prediction(
    selection: select.Selection,
    prediction: extrapolate.CurveForecast,
    place: float,
    level: float,
    limits: tuple[float, float] | None,
) -> dict[str, Any]:
    by_family = {
        score.name: float(score.fits.predict([place])[0, 0])
        for score in selection.scores
        if score.family.variable == "plain" or place > 0
    }
    if place <= 0 and any(score.family.variable == "log" for score in selection.scores):
        raise CurveError(
            f"cannot predict at x = {place:g}: a family of log x fits these points; choose x > 0"
        )
    too_few = _too_few(selection)
    if too_few is not None:
        undefined = dict.fromkeys(("median", "lo", "hi"))
        return {
            "x": place,
            **undefined,
            "level": level,
            "method": None,
            "by_family": by_family,
            "reason": too_few,
        }
    if _use_loss_forecast(selection):
        seen = loss_forecast.forecast_losses(selection.points.x, selection.points.y, [place])
        ends = seen.interval(level)
        lo, middle, hi = float(ends[0][0]), float(seen.median[0]), float(ends[1][0])
        method = "five descriptions of a falling loss, averaged"
    else:
        drawn = _within(prediction.interval([place], level)[:, 0], limits)
        lo, middle, hi = (float(value) for value in drawn)
        method = "families averaged by weight, parametric bootstrap"
    return {
        "x": place,
        "median": middle,
        "lo": lo,
        "hi": hi,
        "level": level,
        "method": method,
        "by_family": by_family,
        "reason": None,
    }


def _reach(
    selection: select.Selection, prediction: extrapolate.CurveForecast, y: float, horizon: float
) -> dict[str, Any]:
    found = extrapolate.when(prediction, y, horizon=horizon)
    too_few = _too_few(selection)
    if too_few is not None:
        return {
            "y": y,
            "from": "below" if found.rising else "above",
            "ever": None,
            "horizon_x": float(found.x[-1]),
            "x_by_which_with_probability": dict.fromkeys(("5%", "25%", "50%", "75%", "95%")),
            "reason": too_few,
            "by_family": {},
            "method": None,
        }
    quantiles = {f"{share:.0%}": found.quantile(share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return {
        "y": y,
        "from": "below" if found.rising else "above",
        "ever": found.ever,
        "horizon_x": float(found.x[-1]),
        "x_by_which_with_probability": quantiles,
        "reason": None
        if found.ever >= 0.95
        else f"{1 - found.ever:.0%} of the curves that fit do not get there before x = {found.x[-1]:.3g}",
        "by_family": {score.name: reach_of(score, y, found) for score in selection.scores},
        "method": "families averaged by weight, parametric bootstrap",
    }


def reach_of(score: select.FamilyScore, y: float, found: extrapolate.Reach) -> float | None:
    """First x of the grid at which this family's best fit has reached y; None before the horizon."""
    with np.errstate(over="ignore", invalid="ignore"):
        curve = score.fits.predict(found.x)[0]
        there = curve >= y if found.rising else curve <= y
    return float(found.x[np.argmax(there)]) if there.any() else None


def _drawing(
    selection: select.Selection,
    prediction: extrapolate.CurveForecast,
    level: float,
    limits: tuple[float, float] | None,
) -> dict[str, Any]:
    """What a figure needs: points, each plausible family on a grid, and the band of new measurements."""
    points = selection.points
    lo, hi = points.x[0], points.x[-1]
    grid = (
        np.geomspace(lo, hi * (hi / lo) ** 0.3, 80) if lo > 0 else np.linspace(lo, hi + 0.3 * (hi - lo), 80)
    )
    band = _within(prediction.interval(grid, level), limits)
    shown = [score for score in selection.scores if score.weight >= 0.01][:6]
    return {
        "points": {
            "x": points.x.tolist(),
            "y": points.y.tolist(),
            "sigma": selection.noise.tolist(),
        },
        "x": grid.tolist(),
        "lo": band[0].tolist(),
        "median": band[1].tolist(),
        "hi": band[2].tolist(),
        "level": level,
        "families": {score.name: score.fits.predict(grid)[0].tolist() for score in shown},
    }


def _sentence(selection: select.Selection, answer: Mapping[str, Any]) -> str:
    best = selection.best
    rivals = [score.name for score in selection.scores[1:] if score.weight > 0.05]
    too_few = _too_few(selection)
    if too_few is not None:
        first = f"Too few points to choose a curve: {too_few}."
    elif rivals:
        first = (
            f"{len(selection.points.x)} points cannot choose: {best.family.title} fits best "
            f"(weight {best.weight:.2f}), and {', '.join(rivals)} remain{'s' if len(rivals) == 1 else ''} possible."
        )
    else:
        first = f"{best.family.title[0].upper() + best.family.title[1:]} fits best, with weight {best.weight:.2f}."
    says = "; ".join(row["answer"] for row in answer["decided"]) or "nothing"
    rest = "; ".join(row["question"] for row in answer["cannot_decide"]) or "nothing that was asked"
    return f"{first} Decided: {says}. Not decided: {rest}"


def clean(value: Any) -> Any:
    """Plain Python values, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (np.bool_, bool)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
