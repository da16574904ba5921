"""Which law a plan believes: a published one by name, or one fitted to a table, with its draws if it has any.

A belief is a law, the spread of laws that the same evidence allows, and how far that evidence reaches. Laws
that were published without draws carry the sentence that says so; nothing is made up for them. Left out:
a law of one's own (`isoflop.plan.belief_own`), and what follows from a belief (`isoflop.plan.size`).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np

from isoflop.laws import registry
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.laws.muennighoff import RepeatedDataLaw

PARAMETERS = ("E", "A", "B", "alpha", "beta")
"""Columns of an array of draws, in this order."""


@dataclass(frozen=True, kw_only=True)
class OtherSize:
    """What the same runs call the best size by a way that gives no loss of this form to plan with."""

    group: Literal["counting", "form", "method"]
    words: str
    N: float
    """At `C`, parameters as the law counts them."""
    C: float
    """Training FLOPs."""
    exponent: float
    """N grows with the budget to this power, near C."""

    def at(self, C: float) -> float:
        return self.N * float((C / self.C) ** self.exponent)


@dataclass(frozen=True, kw_only=True)
class ForecastTest:
    """The law fitted again without its largest budgets, which it then predicts."""

    words: str
    law: ChinchillaLaw
    coverage: float
    """Share of the runs left out whose loss fell into its 95 % prediction interval."""
    mean_error: float
    """Mean of predicted over measured loss, minus 1."""


@dataclass(frozen=True, kw_only=True)
class Belief:
    """A law, its draws and its reach.

    Attributes:
        name: as on the command line.
        title: for people.
        source: who, when, where.
        law: the point estimate.
        draws: the law with arrays [B] for parameters, one entry per bootstrap draw; None without draws.
        why_no_draws: the sentence why there are none; "" when there are.
        other_fits: what the same runs give under another loss function or outlier rule: (words, law).
        other_sizes: the best size by another form, count or method, from the same runs.
        forecast: how the same runs, without those of the largest budgets, predict these.
        unanswered: other choices that these runs give no answer for, with the reason.
        smallest_flops: training FLOPs of the smallest run behind the law; None when unknown.
        largest_flops: training FLOPs of the largest run behind the law; None when unknown.
        largest_N: parameters of the largest model behind the law; None when unknown.
        unit: what one unit of loss is.
    """

    name: str
    title: str
    source: str
    law: ChinchillaLaw
    draws: ChinchillaLaw | None = None
    why_no_draws: str = ""
    other_fits: tuple[tuple[str, ChinchillaLaw], ...] = ()
    other_sizes: tuple[OtherSize, ...] = ()
    forecast: ForecastTest | None = None
    unanswered: tuple[str, ...] = ()
    smallest_flops: float | None = None
    largest_flops: float | None = None
    largest_N: float | None = None
    unit: str = "nats/token"

    @property
    def num_draws(self) -> int:
        return 0 if self.draws is None else int(np.size(self.draws.E))


def from_draws(draws: np.ndarray) -> ChinchillaLaw:
    """The law whose parameters are the columns E, A, B, alpha, beta of an array [B, 5].

    Raises ValueError for another shape, and for draws that are not finite and positive (E may be 0).
    """
    draws = np.asarray(draws, dtype=float)
    if draws.ndim != 2 or draws.shape[1] != len(PARAMETERS) or len(draws) == 0:
        raise ValueError(f"draws have shape {draws.shape}; expected [B, 5]: {', '.join(PARAMETERS)}")
    bad = ~(np.isfinite(draws).all(axis=1) & (draws[:, 1:] > 0).all(axis=1) & (draws[:, 0] >= 0))
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(draws)} draws are not finite and positive; leave them out"
        )
    return ChinchillaLaw(**dict(zip(PARAMETERS, draws.T.copy(), strict=True)))


def to_array(draws: ChinchillaLaw) -> np.ndarray:
    """The draws as an array [B, 5] in the order of `PARAMETERS`."""
    return np.stack([np.atleast_1d(getattr(draws, name)) for name in PARAMETERS], axis=1)


def parameters_of(law: ChinchillaLaw) -> tuple[float, float, float, float, float]:
    """E, A, B, alpha, beta of a point estimate."""
    return (float(law.E), float(law.A), float(law.B), float(law.alpha), float(law.beta))


# ------------------------------------------------------------------------------------- published

DEFAULT = "besiroglu"
_WHY_NO_DRAWS = {
    "besiroglu-published": "the published errors belong to another estimator; the law besiroglu has draws",
    "hoffmann": "the paper gives no draws, and its own interval came from an optimiser that stopped early "
    "(Besiroglu et al. 2024)",
    "hoffmann-rounded": "the paper gives no draws, and two digits move the optimum by a fifth by themselves",
    "muennighoff": "the paper gives a point estimate without draws",
}
"""The published laws of the Chinchilla form; the one that is missing here has draws."""


def published_names() -> tuple[str, ...]:
    """Names that `published` takes, the default first."""
    return (DEFAULT, *_WHY_NO_DRAWS)


@cache
def published(name: str) -> Belief:
    """A published law of the Chinchilla form by name.

    Raises ValueError for a name that is not one, with the nearest and all known ones.
    """
    if name not in published_names():
        near = difflib.get_close_matches(name, published_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(published_names())
        if name in registry.published():
            hint = f"{name} says which size is best but has no loss of this form to plan with; "
        raise ValueError(f"no law named {name!r} to plan with; {hint}known: {known}")
    entry = registry.published()[name]
    C, N = entry.valid_C, entry.valid_N
    return Belief(
        name=name,
        title=entry.title,
        source=entry.source,
        law=entry.law.first_pass if isinstance(entry.law, RepeatedDataLaw) else entry.law,
        draws=entry.draws() if entry.draws else None,
        why_no_draws="" if entry.draws else _WHY_NO_DRAWS[name],
        **(_choices(name) if name == DEFAULT else {}),
        smallest_flops=C[0] if C else None,
        largest_flops=C[1] if C else None,
        largest_N=N[1] if N else None,
    )


@dataclass(frozen=True, kw_only=True)
class PublishedSize:
    """What a published rule without a loss of this form calls the best size."""

    name: str
    words: str
    N: float
    exponent: float
    """N grows with the budget to this power, near this budget."""


def other_published_sizes(C: float) -> tuple[PublishedSize, ...]:
    """The optimum by published rules that plan no loss: Hoffmann's other approaches, Llama 3, DeepSeek.

    DeepSeek give FLOPs per token, of which a sixth is the size. Kaplan et al. 2020 is left out: superseded.
    """
    return tuple(
        PublishedSize(
            name=name,
            words=f"{registry.published()[name].title} ({name})",
            N=_size(name, C),
            exponent=math.log(_size(name, 1.01 * C) / _size(name, C)) / math.log(1.01),
        )
        for name in ("hoffmann-1", "hoffmann-2", "llama3", "deepseek")
    )


def _size(name: str, C: float) -> float:
    best = registry.published()[name].law.optimum(C)
    return float(best.flops_per_token) / 6.0 if name == "deepseek" else float(best.N)


def _choices(name: str) -> dict[str, Any]:
    """The same points under other choices: isoflop/plan/choices/NAME.json, made by benchmarks/plan.py."""
    shipped = json.loads(resources.files("isoflop.plan").joinpath("choices", f"{name}.json").read_text())
    return {
        "other_fits": tuple((row["choice"], _point(row)) for row in shipped["fits"]),
        **from_panel(shipped["panel"], shipped["panel_flops"], fits=False),
    }


def from_panel(rows: list[dict[str, Any]], C: float, *, fits: bool = True) -> dict[str, Any]:
    """The fields of a `Belief` that a sensitivity panel fills.

    Args:
        rows: of `isoflop.fit.law.sensitivity`, as mappings.
        C: training FLOPs at which the panel was made.
        fits: take the fits of the Chinchilla form too.

    Raises KeyError or TypeError for rows of another shape.
    """
    other_fits, sizes, unanswered, forecast = [], [], [], None
    for row in rows:
        if row["group"] == "as asked":
            continue
        if row["N_opt"] is None:
            unanswered.append(f"{row['choice']}: {row['reason']}")
        elif row["group"] == "forecast":
            forecast = ForecastTest(
                words=row["choice"], law=_point(dict(zip(PARAMETERS, row["parameters"], strict=True))),
                coverage=row["coverage"], mean_error=row["mean_error"],
            )  # fmt: skip
        elif row["parameters"] is None:
            sizes.append(
                OtherSize(
                    group=row["group"], words=row["choice"], N=row["N_opt"], C=C, exponent=row["exponent"]
                )
            )
        elif fits:
            other_fits.append((row["choice"], _point(dict(zip(PARAMETERS, row["parameters"], strict=True)))))
    found: dict[str, Any] = {
        "other_sizes": tuple(sizes),
        "forecast": forecast,
        "unanswered": tuple(unanswered),
    }
    return {**found, "other_fits": tuple(other_fits)} if fits else found


def _point(row: Mapping[str, float]) -> ChinchillaLaw:
    return ChinchillaLaw(*(float(row[key]) for key in PARAMETERS))
