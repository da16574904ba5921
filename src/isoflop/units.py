"""Stub replaced shortly."""

from typing import NamedTuple


class Quantity(NamedTuple):
    amount: float
    unit: str
    device: str | None = None
    per_month: bool = False


def parse_budget(text: str) -> Quantity:
    raise NotImplementedError
