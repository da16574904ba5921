"""Which law a plan believes: a published one by name, or one fitted to a table, with its draws if it has any.

A belief is a law, the spread of laws that the same evidence allows, and how far that evidence reaches. Laws
that were published without draws carry the sentence that says so; nothing is made up for them. Left out:
fitting (`isoflop.fit`), and what follows from a belief (`isoflop.plan.size`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import BytesIO

import numpy as np

from isoflop.laws.chinchilla import HOFFMANN, HOFFMANN_ROUNDED, ChinchillaLaw

PARAMETERS = ("E", "A", "B", "alpha", "beta")
"""Columns of an array of draws, in this order."""


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

_POINTS_FROM, _POINTS_FLOPS, _POINTS_N = 1.4e18, 1.3e22, 16.2e9  # runs read off Hoffmann's figure 4


def _besiroglu() -> Belief:
    with np.load(BytesIO(_shipped("besiroglu.npz"))) as file:
        draws, point = file["draws"], file["point"]
    law = ChinchillaLaw(*map(float, point))
    return Belief(
        name="besiroglu",
        title="Chinchilla, refitted",
        source="240 runs of Hoffmann et al. 2022, read by Besiroglu et al. 2024, refitted",
        law=law,
        draws=from_draws(draws),
        other_fits=_other_fits("besiroglu"),
        smallest_flops=_POINTS_FROM,
        largest_flops=_POINTS_FLOPS,
        largest_N=_POINTS_N,
    )


def _hoffmann() -> Belief:
    return Belief(
        name="hoffmann",
        title="Chinchilla, as published",
        source="Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, unrounded",
        law=HOFFMANN,
        why_no_draws="the paper gives no draws, and its own interval came from an optimiser that stopped early "
        "(Besiroglu et al. 2024)",
        smallest_flops=_POINTS_FROM,
        largest_flops=_POINTS_FLOPS,
        largest_N=_POINTS_N,
    )


def _hoffmann_rounded() -> Belief:
    return Belief(
        name="hoffmann-rounded",
        title="Chinchilla, as printed",
        source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 10, two digits",
        law=HOFFMANN_ROUNDED,
        why_no_draws="the paper gives no draws, and two digits move the optimum by a fifth by themselves",
        smallest_flops=_POINTS_FROM,
        largest_flops=_POINTS_FLOPS,
        largest_N=_POINTS_N,
    )


def _muennighoff() -> Belief:
    return Belief(
        name="muennighoff",
        title="Repeated-data law, first pass over the data",
        source="Muennighoff et al. 2023 (arXiv 2305.16264), released code",
        law=MUENNIGHOFF,
        why_no_draws="the paper gives a point estimate without draws",
        largest_flops=2.1e21,
        largest_N=8.7e9,
    )


MUENNIGHOFF = ChinchillaLaw(
    E=float(np.exp(0.6254804)),
    A=float(np.exp(6.255414)),
    B=float(np.exp(7.3049974)),
    alpha=0.3526596,
    beta=0.3526596,
)

_PUBLISHED: dict[str, Callable[[], Belief]] = {
    "besiroglu": _besiroglu,
    "hoffmann": _hoffmann,
    "hoffmann-rounded": _hoffmann_rounded,
    "muennighoff": _muennighoff,
}

DEFAULT = "besiroglu"


def published_names() -> tuple[str, ...]:
    """Names that `published` takes, the default first."""
    return tuple(_PUBLISHED)


@cache
def published(name: str) -> Belief:
    """A published law by name.

    Raises ValueError for a name that is not one, with the nearest and all known ones.
    """
    if name not in _PUBLISHED:
        near = difflib.get_close_matches(name, _PUBLISHED, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no published law named {name!r}; {hint}known: {', '.join(_PUBLISHED)}")
    return _PUBLISHED[name]()


def _other_fits(name: str) -> tuple[tuple[str, ChinchillaLaw], ...]:
    """Fits of the same points under other choices: isoflop/plan/choices/NAME.json, made by benchmarks/plan.py."""
    rows = json.loads(resources.files("isoflop.plan").joinpath("choices", f"{name}.json").read_text())
    return tuple((row["choice"], ChinchillaLaw(*(row[key] for key in PARAMETERS))) for row in rows)


def _shipped(name: str) -> bytes:
    return resources.files("isoflop.laws").joinpath("draws", name).read_bytes()
