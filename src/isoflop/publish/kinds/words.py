"""Words that several kinds share: what a way of counting parameters is called."""

from __future__ import annotations

COUNTINGS = {
    "N_all": "all parameters",
    "N_nonembedding": "without embedding and head",
    "N_matmul": "training FLOPs per token / 6",
}


def counting(name: str) -> str:
    """A way of counting in words; an unknown one as it is written."""
    return COUNTINGS.get(name, name)
