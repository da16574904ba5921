"""What is believed: one file per law or curve family, NumPy only. `published()` lists those with coefficients."""

from isoflop.laws.registry import Law, published

__all__ = ["Law", "published"]
