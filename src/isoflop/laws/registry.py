"""The published laws by name, each with its source, what it counts, and where it was fitted.

`published()` is what a planner or a study offers to choose from. Left out: the forms without published
coefficients (`farseer`, `skaling`) and the rules for hyperparameters (`rates`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from isoflop.laws import besiroglu, gadre, hoffmann, llama3
from isoflop.laws.chinchilla import ChinchillaLaw
from isoflop.laws.deepseek import DeepSeekLaw
from isoflop.laws.kaplan import KaplanLaw
from isoflop.laws.muennighoff import MUENNIGHOFF

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Law:
    """A published statement: the law itself and what a user must know to use it."""

    name: str
    title: str
    form: str
    """The formula, in text."""
    law: Any
    """Has `optimum(C)`; and `loss(N, D)` unless `has_loss` is False."""
    source: str
    """Author, year, place in the text."""
    counts: Literal["all parameters", "without embeddings", "FLOPs per token"]
    valid_N: Range | None = None
    """Smallest and largest model behind it."""
    valid_C: Range | None = None
    """Smallest and largest training FLOPs behind it."""
    note: str = ""
    """What a user would otherwise find out the hard way."""
    has_loss: bool = True
    draws: Callable[[], ChinchillaLaw] | None = None
    """Bootstrap draws that ship with the package."""


def published() -> dict[str, Law]:
    """All published laws, by the name used on the command line."""
    laws = [*_chinchilla_forms(), *_other_surfaces(), *_allocations()]
    return {law.name: law for law in laws}


_CHINCHILLA = "L = E + A/N^alpha + B/D^beta"
_HOFFMANN_N, _HOFFMANN_C = (5.7e7, 1.62e10), (1.4e18, 1.3e22)


def _chinchilla_forms() -> list[Law]:
    return [
        Law(
            name="besiroglu",
            title="Chinchilla, refitted",
            form=_CHINCHILLA,
            law=besiroglu.refit(),
            source="points of Hoffmann et al. 2022, read by Besiroglu et al. 2024 (arXiv 2404.10102), refitted",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            note="Huber on 240 points; all 245 points, or least squares, give optima up to four times larger",
            draws=besiroglu.draws,
        ),
        Law(
            name="besiroglu-published",
            title="Chinchilla, as refitted by Epoch AI",
            form=_CHINCHILLA,
            law=besiroglu.PUBLISHED,
            source="Besiroglu et al. 2024 (arXiv 2404.10102), table 1",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            note="least absolute deviations; the published errors belong to the Huber fit",
        ),
        Law(
            name="hoffmann",
            title="Chinchilla, as published",
            form=_CHINCHILLA,
            law=hoffmann.APPROACH_3,
            source="Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, unrounded",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            note="its optimiser stopped early (Besiroglu et al. 2024); contradicts approaches 1 and 2",
        ),
        Law(
            name="hoffmann-rounded",
            title="Chinchilla, as printed",
            form=_CHINCHILLA,
            law=hoffmann.APPROACH_3_PRINTED,
            source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 10",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            note="two digits: the rounding alone moves the optimum at 3.8e25 FLOPs by a fifth",
        ),
    ]


def _other_surfaces() -> list[Law]:
    return [
        Law(
            name="muennighoff",
            title="Repeated data",
            form="Chinchilla form in effective N and D; repeats decay with R_D*",
            law=MUENNIGHOFF,
            source="Muennighoff et al. 2023 (arXiv 2305.16264), released code",
            counts="all parameters",
            valid_N=(7e6, 8.7e9),
            note="give the number of unique tokens; without it, the law of fresh data",
        ),
        Law(
            name="gadre-c4",
            title="Over-training on C4",
            form="L = E + (a M^eta + b M^-eta) C^-eta, M = D/N",
            law=gadre.C4,
            source="Gadre et al. 2024 (arXiv 2403.08540), appendix, coefficients from memory",
            counts="all parameters",
            valid_N=(1.1e7, 6.9e9),
            valid_C=(3e15, 7e21),
            note="one exponent for size and data: the best ratio is the same at every budget",
        ),
        Law(
            name="kaplan",
            title="Kaplan",
            form="L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D",
            law=KaplanLaw(),
            source="Kaplan et al. 2020 (arXiv 2001.08361), equations 1.5 and 1.7",
            counts="without embeddings",
            valid_N=(768, 1.5e9),
            note="superseded: asks for models that are far too large; kept for comparison",
        ),
    ]


def _allocations() -> list[Law]:
    return [
        Law(
            name="hoffmann-1",
            title="Chinchilla, approach 1",
            form="N* = k C^0.50",
            law=hoffmann.APPROACH_1,
            source="Hoffmann et al. 2022 (arXiv 2203.15556), tables 2 and 3",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            has_loss=False,
        ),
        Law(
            name="hoffmann-2",
            title="Chinchilla, approach 2",
            form="N* = k C^0.49",
            law=hoffmann.APPROACH_2,
            source="Hoffmann et al. 2022 (arXiv 2203.15556), tables 2 and A3",
            counts="all parameters",
            valid_N=_HOFFMANN_N,
            valid_C=_HOFFMANN_C,
            has_loss=False,
        ),
        Law(
            name="deepseek",
            title="DeepSeek LLM",
            form="M* = 0.1715 C^0.5243, D* = 5.8316 C^0.4757",
            law=DeepSeekLaw(),
            source="DeepSeek-AI 2024 (arXiv 2401.02954), section 3.2",
            counts="FLOPs per token",
            valid_C=(1e17, 3e20),
            note="C = M D; the exponents move with the quality of the data",
            has_loss=False,
        ),
        Law(
            name="llama3",
            title="Llama 3",
            form="D* = 0.299 C^0.537",
            law=llama3.CONSISTENT,
            source="Llama Team 2024 (arXiv 2407.21783), section 3.2.1",
            counts="all parameters",
            valid_C=(6e18, 1e22),
            note="the printed pair (0.53, 0.29) does not give the paper's own 16.55T tokens; this one nearly does",
            has_loss=False,
        ),
    ]
