"""AdamW over one flat buffer, for one net or for a stack of nets with a rate of their own each.

All parameters of a net lie in one buffer, matrices first, so that clipping and the update touch one tensor
whatever the number of layers, and projections of the same input are neighbours (`isoflop.model.fused`
multiplies them at once). The update is that of Loshchilov and Hutter 2019, algorithm 2: PyTorch's fused
kernel for one net, the same in plain operations for a stack.

An optimizer here has `update(lr_fraction)`, `state()` and `load(...)`; a sharded one needs the same three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from isoflop.dist.norms import norm_of
from isoflop.records import OptimizerSpec


class FlatParameters:
    """Parameters of a net moved into one buffer, [P] or [R, P]; the net's own tensors become views of it.

    Attributes:
        values: the buffer.
        num_decayed: the first so many of P are under weight decay.
    """

    def __init__(self, net: nn.Module, decay_on: str, num_runs: int | None) -> None:
        self.num_runs = num_runs
        matrix_dims = 2 if num_runs is None else 3
        named = list(net.named_parameters())
        decayed = [(n, p) for n, p in named if decay_on == "all" or p.dim() >= matrix_dims]
        names = {name for name, _ in decayed}
        self._named = decayed + [(n, p) for n, p in named if n not in names]
        self._sizes = [p.numel() // (num_runs or 1) for _, p in self._named]
        self.num_decayed = sum(self._sizes[: len(decayed)])
        self.values = self._flat([p.detach() for _, p in self._named])
        for (_, parameter), view in zip(self._named, self.views(self.values).values(), strict=True):
            parameter.data = view

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """A buffer laid out as `values`, cut into tensors by parameter name."""
        parts = flat.split(self._sizes, dim=-1)
        return {
            name: part.view(parameter.shape)
            for (name, parameter), part in zip(self._named, parts, strict=True)
        }

    def take_gradients(self, out: Tensor) -> None:
        """Move the parameters' gradients into a buffer; a parameter without one counts as zero."""
        gradients = []
        for _, parameter in self._named:
            gradient, parameter.grad = parameter.grad, None
            gradients.append(torch.zeros_like(parameter) if gradient is None else gradient)
        self._flat(gradients, out)

    def _flat(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        lead = () if self.num_runs is None else (self.num_runs,)
        return torch.cat([tensor.reshape(*lead, -1) for tensor in tensors], dim=-1, out=out)


class AdamW:
    """AdamW for one net, with gradient clipping."""

    def __init__(self, net: nn.Module, spec: OptimizerSpec) -> None:
        self.spec = spec
        self.parameters = FlatParameters(net, spec.decay_on, None)
        flat = self.parameters.values
        self._gradient = torch.zeros_like(flat)
        self._exp_avg = torch.zeros_like(flat)
        self._exp_avg_sq = torch.zeros_like(flat)
        self._num_updates = torch.zeros((), device=flat.device)

    @torch.no_grad()
    def update(self, lr_fraction: float) -> Tensor:
        """One update from the gradients that the net's parameters hold; takes them away.

        Args:
            lr_fraction: of the peak learning rate, from the schedule.

        Returns the gradient's norm before clipping, a scalar.
        """
        spec, values = self.spec, self.parameters.values
        lr = spec.peak_lr * lr_fraction
        self.parameters.take_gradients(self._gradient)
        norm = norm_of([self._gradient])
        # The kernel divides gradients by this on its way: clipping costs no pass of its own.
        divisor = None if spec.grad_clip is None else ((norm + 1e-6) / spec.grad_clip).clamp_(min=1.0)
        values[: self.parameters.num_decayed].mul_(1 - lr * spec.weight_decay)
        adamw(
            [values],
            [self._gradient],
            [self._exp_avg],
            [self._exp_avg_sq],
            [],
            [self._num_updates],
            fused=True,
            grad_scale=divisor,
            amsgrad=False,
            beta1=spec.beta1,
            beta2=spec.beta2,
            lr=lr,
            weight_decay=0.0,  # done above, on the part that decays
            eps=spec.eps,
            maximize=False,
        )
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments by parameter: "exp_avg.NAME", "exp_avg_sq.NAME"."""
        return _moments(self.parameters, self._exp_avg, self._exp_avg_sq)

    def load(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Take over moments written by `state`, and the number of updates behind them."""
        for name, view in self.state().items():
            view.copy_(state[name])
        self._num_updates.fill_(num_updates)


class StackedAdamW:
    """AdamW for a stack of nets: own rate, own clipping, and a run that blew up stands still alone.

    Args:
        net: a stack of R nets.
        specs: one per run; they may differ in `peak_lr` alone.
    """

    def __init__(self, net: nn.Module, specs: Sequence[OptimizerSpec]) -> None:
        first = specs[0]
        for spec in specs:
            if (spec.beta1, spec.beta2, spec.eps, spec.weight_decay, spec.decay_on, spec.grad_clip) != (
                first.beta1,
                first.beta2,
                first.eps,
                first.weight_decay,
                first.decay_on,
                first.grad_clip,
            ):
                raise ValueError("runs of one stack may differ in peak_lr alone; train these one at a time")
        self.spec = first
        self.parameters = FlatParameters(net, first.decay_on, len(specs))
        flat = self.parameters.values
        self.peak_lr_R1 = torch.tensor([spec.peak_lr for spec in specs], device=flat.device).unsqueeze(1)
        self.alive_R = torch.ones(len(specs), dtype=torch.bool, device=flat.device)
        """False from the step on at which a run's gradient was not finite; its weights stay as they were."""
        self._gradient = torch.zeros_like(flat)
        self._exp_avg = torch.zeros_like(flat)
        self._exp_avg_sq = torch.zeros_like(flat)
        self._num_updates = 0
        self._decay_P = torch.zeros(flat.shape[1], device=flat.device)
        self._decay_P[: self.parameters.num_decayed] = first.weight_decay

    @torch.no_grad()
    def update(self, lr_fraction: float) -> Tensor:
        """As `AdamW.update`; returns the norms [R]."""
        spec, gradient = self.spec, self._gradient
        self.parameters.take_gradients(gradient)
        norm_R = torch.stack([norm_of([one]) for one in gradient])
        self.alive_R &= norm_R.isfinite()
        if spec.grad_clip is not None:
            gradient.mul_((spec.grad_clip / (norm_R + 1e-6)).clamp_(max=1.0).unsqueeze(1))
        gradient.masked_fill_(~self.alive_R.unsqueeze(1), 0.0)
        self._num_updates += 1
        lr_R1 = self.peak_lr_R1 * lr_fraction * self.alive_R.unsqueeze(1)
        self._exp_avg.lerp_(gradient, 1 - spec.beta1)
        self._exp_avg_sq.mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
        first_correction = 1 - spec.beta1**self._num_updates
        second_correction = 1 - spec.beta2**self._num_updates
        scale = (self._exp_avg_sq / second_correction).sqrt_().add_(spec.eps)
        self.parameters.values.mul_(1 - lr_R1 * self._decay_P)
        self.parameters.values.sub_((self._exp_avg / scale).mul_(lr_R1 / first_correction))
        return norm_R

    def state(self) -> dict[str, Tensor]:
        """Moments by parameter, each with the leading run axis."""
        return _moments(self.parameters, self._exp_avg, self._exp_avg_sq)

    def load(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """Take over moments written by `state`, and the number of updates behind them."""
        for name, view in self.state().items():
            view.copy_(state[name])
        self._num_updates = num_updates


Optimizer = AdamW | StackedAdamW


def _moments(parameters: FlatParameters, exp_avg: Tensor, exp_avg_sq: Tensor) -> dict[str, Tensor]:
    return {
        f"{moment}.{name}": view
        for moment, flat in (("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq))
        for name, view in parameters.views(flat).items()
    }
