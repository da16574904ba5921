"""AdamW on sharded weights: each rank updates its own parts; only the gradient's norm is talked about.

The same update as `isoflop.train.optim.AdamW` (Loshchilov and Hutter 2019, algorithm 2; PyTorch's fused
kernel), with the same three methods, for nets whose parameters are sharded tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from isoflop.dist.mesh import World
from isoflop.dist.norms import norm_of
from isoflop.dist.parallel import laid_out_as
from isoflop.records import OptimizerSpec

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW:
    """AdamW for a net that was spread, with clipping by the norm over all ranks.

    Args:
        net: with memory; its parameters are sharded or whole.
        spec: rate, moments, decay, clipping.
        world: the mesh.
    """

    def __init__(self, net: nn.Module, spec: OptimizerSpec, world: World) -> None:
        self.spec = spec
        self._world = world
        self._named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        self._moments = {
            f"{moment}.{name}": torch.zeros_like(p).detach() for moment in MOMENTS for name, p in self._named
        }
        self._num_updates = {name: torch.zeros((), device=world.device) for name, _ in self._named}
        self._axes = {name: split_axes(p) for name, p in self._named}

    @torch.no_grad()
    def update(self, lr_fraction: float) -> Tensor:
        """One update from the gradients that the net's parameters hold; takes them away.

        Args:
            lr_fraction: of the peak learning rate, from the schedule.

        Returns the gradient's norm over all ranks before clipping, a scalar.
        """
        gradients = {name: self._take_gradient(p) for name, p in self._named}
        norm = self._norm(gradients)
        clip = self.spec.grad_clip
        # The kernel divides gradients by this on its way: clipping costs no pass of its own.
        divisor = None if clip is None else ((norm + 1e-6) / clip).clamp_(min=1.0)
        for weight_decay, names in self._groups():
            adamw(
                [_own(p) for name, p in self._named if name in names],
                [gradients[name] for name in names],
                [_own(self._moments[f"exp_avg.{name}"]) for name in names],
                [_own(self._moments[f"exp_avg_sq.{name}"]) for name in names],
                [],
                [self._num_updates[name] for name in names],
                fused=True,
                grad_scale=divisor,
                amsgrad=False,
                beta1=self.spec.beta1,
                beta2=self.spec.beta2,
                lr=self.spec.peak_lr * lr_fraction,
                weight_decay=weight_decay,
                eps=self.spec.eps,
                maximize=False,
            )
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments by parameter, sharded as it is: "exp_avg.NAME", "exp_avg_sq.NAME"."""
        return dict(self._moments)

    def load(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Take over moments laid out as `state` gives them, and the number of updates behind them."""
        for name, moment in self._moments.items():
            _own(moment).copy_(_own(state[name]))
        for count in self._num_updates.values():
            count.fill_(num_updates)

    def _take_gradient(self, parameter: nn.Parameter) -> Tensor:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return torch.zeros_like(_own(parameter))
        return _own(laid_out_as(gradient, parameter))

    def _groups(self) -> list[tuple[float, list[str]]]:
        """(weight decay, names) of the parameters that this rank holds a part of."""
        held = [(name, p) for name, p in self._named if _own(p).numel()]
        decayed = [name for name, p in held if self.spec.decay_on == "all" or p.dim() >= 2]
        free = [name for name, _ in held if name not in set(decayed)]
        return [(decay, names) for decay, names in ((self.spec.weight_decay, decayed), (0.0, free)) if names]

    def _norm(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Norm over all parts: squares are summed on each rank, then along the axes that split them."""
        squares: dict[tuple[str, ...], Tensor] = {}
        names_of: dict[tuple[str, ...], list[str]] = {}
        for name, axes in self._axes.items():
            names_of.setdefault(axes, []).append(name)
        for axes, names in sorted(names_of.items()):
            squares[axes] = norm_of([gradients[name] for name in names]).square()
        for axis in ("shard", "tensor"):
            split = [axes for axes in squares if axis in axes]
            if split:
                total = torch.stack([squares[axes] for axes in split])
                dist.all_reduce(total, group=self._world.group(axis))
                squares.update(zip(split, total.unbind(), strict=True))
        return torch.stack(list(squares.values())).sum().sqrt()


def split_axes(parameter: Tensor) -> tuple[str, ...]:
    """Names of the mesh axes over which a parameter is split, e.g. ("shard", "tensor")."""
    if not isinstance(parameter, DTensor):
        return ()
    names = parameter.device_mesh.mesh_dim_names or ()
    return tuple(
        name
        for name, placement, size in zip(
            names, parameter.placements, parameter.device_mesh.shape, strict=True
        )
        if size > 1 and not isinstance(placement, Replicate)
    )


def _own(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory with it."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
