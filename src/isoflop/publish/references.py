"""The works behind the methods of a study, each with what in the records calls for it.

A report cites what its runs and fits used and nothing else. Leaves out the works that a law cites for its own
constants: those are named where the law is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.publish.evidence import StudyData


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One work: what it is cited for, and when."""

    used_for: str
    text: str
    url: str
    applies: Callable[[StudyData], bool]


def _arxiv(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


def _draws(kind: str) -> Callable[[StudyData], bool]:
    return lambda data: any(figure.kind == kind for figure in data.verdict.figures)


def _trains(data: StudyData) -> bool:
    return bool(data.plan.runs)


def _fits_say(*words: str) -> Callable[[StudyData], bool]:
    def applies(data: StudyData) -> bool:
        texts = [f"{fit.error_model} {fit.form} {' '.join(fit.notes)}" for fit in data.verdict.fits]
        texts += [estimate.method for fit in data.verdict.fits for estimate in fit.estimates.values()]
        texts += [statement.estimate.method for statement in data.verdict.statements if statement.estimate]
        return any(word in text.lower() for text in texts for word in words)

    return applies


def _has_nonembedding(data: StudyData) -> bool:
    names = [column.name for table in data.verdict.tables for column in table.columns]
    return "N_nonembedding" in names


REFERENCES: tuple[Reference, ...] = (
    Reference(
        used_for="isoFLOP profiles and N*(C)",
        text="Hoffmann et al. (2022). Training compute-optimal large language models. Section 3.2.",
        url=_arxiv("2203.15556"),
        applies=_draws("isoflop_bowls"),
    ),
    Reference(
        used_for="counting parameters without embeddings",
        text="Kaplan et al. (2020). Scaling laws for neural language models.",
        url=_arxiv("2001.08361"),
        applies=_has_nonembedding,
    ),
    Reference(
        used_for="how counting changes the exponent",
        text="Pearce and Song (2024). Reconciling Kaplan and Chinchilla scaling laws.",
        url=_arxiv("2406.12907"),
        applies=_has_nonembedding,
    ),
    Reference(
        used_for="one trunk with cooldown branches (WSD)",
        text="Hu et al. (2024). MiniCPM: unveiling the potential of small language models with scalable training "
        "strategies. And Hägele et al. (2024), arXiv 2405.18392.",
        url=_arxiv("2404.06395"),
        applies=lambda data: any(run.spec.schedule.kind == "wsd" for run in data.plan.runs),
    ),
    Reference(
        used_for="AdamW",
        text="Loshchilov and Hutter (2019). Decoupled weight decay regularization.",
        url=_arxiv("1711.05101"),
        applies=lambda data: any(run.spec.optimizer.name == "adamw" for run in data.plan.runs),
    ),
    Reference(
        used_for="the decoder: RMSNorm, rotary positions, gated feed-forward",
        text="Touvron et al. (2023). LLaMA: open and efficient foundation language models. Section 2.2.",
        url=_arxiv("2302.13971"),
        applies=lambda data: any(run.spec.net.family == "decoder" for run in data.plan.runs),
    ),
    Reference(
        used_for="byte-pair encoding",
        text="Sennrich, Haddow and Birch (2016). Neural machine translation of rare words with subword units.",
        url=_arxiv("1508.07909"),
        applies=lambda data: data.plan.corpus is not None and data.plan.corpus.tokenizer.startswith("bpe"),
    ),
    Reference(
        used_for="the bootstrap",
        text="Efron (1979). Bootstrap methods: another look at the jackknife. Annals of Statistics 7(1), 1–26.",
        url="https://doi.org/10.1214/aos/1176344552",
        applies=_fits_say("bootstrap"),
    ),
    Reference(
        used_for="variable projection",
        text="Golub and Pereyra (1973). The differentiation of pseudo-inverses and nonlinear least squares problems "
        "whose variables separate. SIAM Journal on Numerical Analysis 10(2), 413–432.",
        url="https://doi.org/10.1137/0710036",
        applies=_fits_say("variable projection"),
    ),
    Reference(
        used_for="what a report must say so that others can refit",
        text="Li et al. (2025). (Mis)fitting: a survey of scaling laws.",
        url=_arxiv("2502.18969"),
        applies=_trains,
    ),
)


def cited(data: StudyData) -> tuple[Reference, ...]:
    """The references that this study's records call for, in the order of `REFERENCES`."""
    return tuple(reference for reference in REFERENCES if reference.applies(data))
