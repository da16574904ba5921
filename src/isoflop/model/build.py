"""From a `NetSpec` to a net: one registry of families, one way to seed.

A family is a class that takes (spec, num_runs) and has `initialise(generators)`. Leaves out devices,
precision and sharding: see `isoflop.train.build`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from isoflop.model.decoder import Decoder
from isoflop.records import NetSpec

FAMILIES: dict[str, Callable[[NetSpec, int | None], nn.Module]] = {"decoder": Decoder}
"""Name of a family -> its class."""


def build_net(
    spec: NetSpec, generator: torch.Generator | Sequence[torch.Generator], num_runs: int | None = None
) -> nn.Module:
    """A net with drawn weights, in fp32 on the CPU.

    Args:
        spec: the shape; `options` that its family does not know are refused.
        generator: where the weights come from; for a stack one per run, and slice r equals the single net
            that generator r would have made.
        num_runs: None for one net, R for a stack.

    Raises ValueError for an unknown family, an unknown option or an impossible shape.
    """
    if spec.family not in FAMILIES:
        raise ValueError(f"unknown family {spec.family!r} of nets; known: {', '.join(sorted(FAMILIES))}")
    net = FAMILIES[spec.family](spec, num_runs)
    net.initialise([generator] if isinstance(generator, torch.Generator) else list(generator))  # type: ignore[operator]
    return net
