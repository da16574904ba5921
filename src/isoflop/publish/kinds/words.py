"""Words that several kinds share: ways of counting parameters, and what a drawing has to leave open."""

from __future__ import annotations

from collections.abc import Iterable

from isoflop.records import Scalar

COUNTINGS = {
    "N_all": "all parameters",
    "N_nonembedding": "without embedding and head",
    "N_matmul": "training FLOPs per token / 6",
}


def counting(name: str) -> str:
    """A way of counting in words; an unknown one as it is written."""
    return COUNTINGS.get(name, name)


def because(reason: Scalar) -> str:
    """A reason as the table gives it, without its full stop, or that there is none."""
    return str(reason or "the table gives no reason").rstrip(". ")


def grouped(what: str, cases: Iterable[tuple[str, Scalar]]) -> list[str]:
    """Notes that say a thing once for each reason: "What at A; at B: reason.".

    Args:
        what: the thing, as the start of a sentence.
        cases: (where, reason) of each time it happens.
    """
    places: dict[str, list[str]] = {}
    for where, reason in cases:
        places.setdefault(because(reason), []).append(where)
    return [f"{what}: {'; '.join(wheres)} ({reason})." for reason, wheres in places.items()]


OPEN_END = "An arrow marks an open end of an interval"
NO_VALUE = "Without a value, and not drawn"
