"""Cross-entropy over a vocabulary that is split over ranks, taken in chunks, with its gradient made on the way.

The logits are the largest tensors of a language model's step: positions x vocabulary, in 16 and in 32 bits, and
their gradient. Here only those of one chunk of positions are in memory, and only this rank's share of the
vocabulary; loss and gradients of a chunk are computed at once, so nothing is computed twice. Ranks talk about two
numbers per position (Shoeybi et al. 2019, section 3, parallel embedding).

Leaves out second derivatives, and stacks of nets.

Legend: N positions, D width, V this rank's share of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, Partial


def cross_entropy(x: Tensor, head: Tensor, targets: Tensor, *, num_chunks: int = 1) -> Tensor:
    """Mean nats per token, as `isoflop.model.primitives.cross_entropy`.

    Args:
        x: [..., D], plain; or whole on each rank of a tensor group.
        head: [V, D], plain; or split by rows over that group.
        targets: ids of the next tokens, [...]; the same on each rank of the group.
        num_chunks: parts of the positions whose logits are in memory one after the other.

    Returns a scalar, the same on each rank of the group, in fp32 whatever the type of the logits.
    """
    first, group = 0, None
    if isinstance(head, DTensor):
        mesh = head.device_mesh
        (chunk,) = head.__create_chunk_list__()
        first, group = chunk.offsets[0], mesh.get_group()
        head = head.to_local()
    if isinstance(x, DTensor):
        x = x.to_local(grad_placements=(Partial(),))  # each rank's share of the vocabulary adds its part
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, head = x.to(dtype), head.to(dtype)
    flat, wanted = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    loss: Tensor = _VocabularyLoss.apply(flat, head, wanted, first, max(1, num_chunks), group)
    return loss


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        first: int,
        num_chunks: int,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        learns = any(ctx.needs_input_grad)
        count = x_ND.shape[0]
        total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        d_x = torch.empty_like(x_ND) if learns else None
        d_head: Tensor | None = None
        with torch.autocast(x_ND.device.type, enabled=False):
            for rows in torch.arange(count, device="cpu").chunk(num_chunks):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                nats, d_logits = _chunk(x_ND[part], head_VD, targets_N[part] - first, group, learns)
                total += nats
                if d_x is None or d_logits is None:
                    continue
                d_logits = d_logits.div_(count).to(head_VD.dtype)
                torch.mm(d_logits, head_VD, out=d_x[part])
                product = torch.mm(d_logits.mT, x_ND[part])
                # Summed in fp32: a sum of 16-bit parts would lose what each adds.
                d_head = product if d_head is None else d_head.float().add_(product)
        if d_x is not None and d_head is not None:
            ctx.save_for_backward(d_x, d_head.to(head_VD.dtype))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_head = ctx.saved_tensors
        return d_x * d_loss.to(d_x.dtype), d_head * d_loss.to(d_head.dtype), None, None, None, None


def _chunk(
    x_ND: Tensor, head_VD: Tensor, local_N: Tensor, group: dist.ProcessGroup | None, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of nats, and its gradient by the logits [N, V]; `local_N` counts targets from this rank's first row."""
    logits = F.linear(x_ND, head_VD).float()
    peak = logits.amax(dim=1)
    if group is not None:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=group)
    logits = logits.sub_(peak.unsqueeze(1))
    here = (local_N >= 0) & (local_N < head_VD.shape[0])
    index = torch.where(here, local_N, 0).unsqueeze(1)
    wanted = logits.gather(1, index).squeeze(1) * here
    odds = logits.exp_()
    sums = torch.stack((odds.sum(dim=1), wanted))
    if group is not None:
        dist.all_reduce(sums, group=group)
    nats = (sums[0].log() - sums[1]).sum()
    if not learns:
        return nats, None
    d_logits = odds.div_(sums[0].unsqueeze(1))
    return nats, d_logits.scatter_add_(1, index, -here.to(d_logits.dtype).unsqueeze(1))
