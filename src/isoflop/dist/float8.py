"""Matrix products of blocks in float8, by torchao: an option for GPUs that have such units.

Weights stay as they are, under their names, and are cast with their inputs for each product, with a scale per
tensor (Micikevicius et al. 2022, "FP8 formats for deep learning", section 3; torchao's tensorwise recipe). The
head and the embedding are left out. torchao is optional and is asked for before anything is computed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

MULTIPLE = 16
"""Both sizes of a weight must be multiples of this for the units' layout."""
OLDEST = (8, 9)
"""Compute capability of the first GPUs with float8 units (Ada; Hopper is 9.0)."""


def require_float8(device: torch.device, *, precision: str, tensor: int) -> None:
    """Raise ValueError when products in float8 cannot be had here.

    Args:
        device: where the net is trained.
        precision: of the rest of the net; must be "bf16".
        tensor: tensor degree; split products are not supported.
    """
    if precision != "bf16":
        raise ValueError(f"float8 products go with precision bf16, not {precision}")
    if tensor > 1:
        raise ValueError(
            f"float8 products cannot be split over {tensor} tensor ranks here; take a tensor degree of 1, and shards"
        )
    if device.type != "cuda":
        raise ValueError(f"float8 products need a GPU; {device.type} has no units for them: leave float8 off")
    if torch.cuda.get_device_capability(device) < OLDEST:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has no float8 units (compute capability 8.9 or higher has them): "
            "leave float8 off"
        )
    if importlib.util.find_spec("torchao") is None:
        raise ValueError("float8 products need torchao: pip install torchao, or leave float8 off")


def use_float8(block: nn.Module, names: tuple[str, ...], *, emulate: bool = False) -> list[str]:
    """Let linear maps of a block compute in float8, in place; parameters keep their names.

    Args:
        block: unstacked and not split.
        names: its linear maps; those whose sizes do not suit the units stay as they are.
        emulate: compute the same roundings in fp32, on any device; to test with.

    Returns the names of those that were changed.
    """
    from torchao.float8 import Float8LinearConfig
    from torchao.float8.float8_linear import Float8Linear

    config = Float8LinearConfig(emulate=emulate)
    changed = []
    for name in names:
        weight: Any = block.get_submodule(name).weight
        if any(size % MULTIPLE for size in weight.shape):
            continue
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        plain.weight = weight
        block.set_submodule(name, Float8Linear.from_float(plain, config))
        changed.append(name)
    return changed
