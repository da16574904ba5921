"""The primitives again, fused where a small net spends its time, with gradients written by hand.

A net of a few ten thousand parameters spends most of a step between operations, not in them. So here half
a block is one function with one backward pass: a norm goes with the products that follow it, projections
of the same input are one product, attention skips the blocks above the diagonal, the residual is added by
the product, the loss keeps the softmax it has computed; and everything is laid out with positions last,
because loops over the few features of a head are short and loops over positions are long. The mathematics
is that of `isoflop.model.primitives`, the rounding is not quite; tests compare the two. Used in fp32 on
plain tensors; autocast, compilation and sharded tensors take the plain functions.

Columns are the positions of all sequences, one after the other: x_DN is [D, N] for one net and [R, D, N]
for a stack, N = B * T. Legend: as in `primitives`, O = all outputs of a joined product, G = H + 2 K (heads
of query, key and value).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model.primitives import Rotary

LONGEST_DENSE = 256
"""Up to this many positions attention keeps its weights; longer sequences take the plain functions."""
QUERY_BLOCK = 64
"""Queries per block; keys behind the last query of a block are never touched."""

_softmax_backward = torch.ops.aten._softmax_backward_data.default
_silu_backward = torch.ops.aten.silu_backward.grad_input


def usable(x: Tensor, weight: Tensor) -> bool:
    """True where these functions may stand in for the plain ones: x is [(R), B, T, D]."""
    return (
        type(x) is Tensor
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and x.shape[-2] <= LONGEST_DENSE
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
    )


# ---------------------------------------------------------------------------------- halves of a block


def attention_half(
    x_DN: Tensor,
    gain: Tensor,
    eps: float,
    projections: Sequence[Tensor],
    output: Tensor,
    rotary: Rotary,
    num_heads: int,
    num_kv_heads: int,
) -> Tensor:
    """x + output @ attention(projections @ norm(x)).

    Args:
        x_DN: [(R), D, N].
        gain, eps: of the norm; gain [(R), D].
        projections: query, key and value weights, [(R), H * E, D] and twice [(R), K * E, D]; no copy is made
            when they lie beside each other in memory.
        output: weight [(R), D, H * E].
        rotary: tables of T positions, N = B * T.
    """
    heads = (num_heads, num_kv_heads)
    return _AttentionHalf.apply(x_DN, gain, eps, rotary.cos_ET, rotary.sin_ET, heads, output, *projections)


class _AttentionHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_DN: Tensor,
        gain: Tensor,
        eps: float,
        cos_ET: Tensor,
        sin_ET: Tensor,
        heads: tuple[int, int],
        output: Tensor,
        *projections: Tensor,
    ) -> Tensor:
        unit_DN, scale = _normalise(x_DN, eps)
        weight_OD = join(projections)
        scaled_OD = weight_OD * gain.unsqueeze(-2)
        qkv = torch.matmul(scaled_OD, unit_DN)
        y_DN, kept = _attend(qkv, cos_ET, sin_ET, *heads)
        ctx.kept = (unit_DN, scale, gain, weight_OD, scaled_OD, output, y_DN, cos_ET, sin_ET, kept)
        ctx.heads = heads
        ctx.widths = [projection.shape[-2] for projection in projections]
        return _add_product(x_DN, output, y_DN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        unit_DN, scale, gain, weight_OD, scaled_OD, output, y_DN, cos_ET, sin_ET, kept = _release(ctx)
        d_output = torch.matmul(d_out, y_DN.mT)
        d_qkv = _attend_backward(torch.matmul(output.mT, d_out), kept, cos_ET, sin_ET, *ctx.heads)
        d_x, d_gain, d_weight = _norm_product_backward(
            d_qkv, d_out, unit_DN, scale, gain, weight_OD, scaled_OD
        )
        d_projections = d_weight.split(ctx.widths, dim=-2)
        return d_x, d_gain, None, None, None, None, d_output, *d_projections


def feed_forward_half(
    x_DN: Tensor, gain: Tensor, eps: float, gate_and_up: Sequence[Tensor], down: Tensor
) -> Tensor:
    """x + down @ (silu(gate @ norm(x)) * (up @ norm(x))).

    Args:
        x_DN: [(R), D, N].
        gain, eps: of the norm; gain [(R), D].
        gate_and_up: two weights [(R), F, D].
        down: weight [(R), D, F].
    """
    return _FeedForwardHalf.apply(x_DN, gain, eps, down, *gate_and_up)


class _FeedForwardHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_DN: Tensor, gain: Tensor, eps: float, down: Tensor, gate: Tensor, up: Tensor
    ) -> Tensor:
        unit_DN, scale = _normalise(x_DN, eps)
        weight_OD = join((gate, up))
        scaled_OD = weight_OD * gain.unsqueeze(-2)
        first, second = torch.matmul(scaled_OD, unit_DN).chunk(2, dim=-2)
        silu = F.silu(first)
        y_FN = silu * second
        ctx.kept = (unit_DN, scale, gain, weight_OD, scaled_OD, down, first, second, silu, y_FN)
        return _add_product(x_DN, down, y_FN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        unit_DN, scale, gain, weight_OD, scaled_OD, down, first, second, silu, y_FN = _release(ctx)
        d_down = torch.matmul(d_out, y_FN.mT)
        dy_FN = torch.matmul(down.mT, d_out)
        d_hidden = dy_FN.new_empty(*dy_FN.shape[:-2], 2 * dy_FN.shape[-2], dy_FN.shape[-1])
        d_first, d_second = d_hidden.chunk(2, dim=-2)
        torch.mul(dy_FN, silu, out=d_second)
        _silu_backward(dy_FN.mul_(second), first, grad_input=d_first)
        d_x, d_gain, d_weight = _norm_product_backward(
            d_hidden, d_out, unit_DN, scale, gain, weight_OD, scaled_OD
        )
        return d_x, d_gain, None, d_down, *d_weight.chunk(2, dim=-2)


def _release(ctx: Any) -> Any:
    """What the forward pass kept, handed out once: its memory is used again or freed."""
    kept, ctx.kept = ctx.kept, None
    if kept is None:
        raise RuntimeError("this loss was differentiated before; compute it again instead")
    return kept


# ------------------------------------------------------------------------------- norm and products


def _normalise(x_DN: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), and 1 / rms(x)."""
    scale = (x_DN * x_DN).mean(dim=-2, keepdim=True).add_(eps).rsqrt_()
    return x_DN * scale, scale


def _norm_product_backward(
    dy_ON: Tensor,
    d_residual: Tensor,
    unit_DN: Tensor,
    scale: Tensor,
    gain: Tensor,
    weight_OD: Tensor,
    scaled_OD: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (weight * gain) @ unit(x): of x, with what comes by the residual, of gain and of weight.

    The gain multiplies the weights, [O, D], instead of the input, [D, N]: the product is the same.
    """
    d_unit = torch.matmul(scaled_OD.mT, dy_ON)
    d_scaled_OD = torch.matmul(dy_ON, unit_DN.mT)
    d_gain = (d_scaled_OD * weight_OD).sum(dim=-2)
    d_x = _normalise_backward(d_unit, unit_DN, scale, d_residual)
    return d_x, d_gain, d_scaled_OD.mul_(gain.unsqueeze(-2))


def _normalise_backward(d_unit: Tensor, unit_DN: Tensor, scale: Tensor, d_residual: Tensor | None) -> Tensor:
    """Uses up `d_unit`. With u = x s: dx = s (du - u mean(du u)), over the features."""
    along = (d_unit * unit_DN).sum(dim=-2, keepdim=True)
    d_unit.addcmul_(unit_DN, along, value=-1 / unit_DN.shape[-2])
    return d_unit.mul_(scale) if d_residual is None else torch.addcmul(d_residual, d_unit, scale)


def _add_product(residual_ON: Tensor, weight_OD: Tensor, x_DN: Tensor) -> Tensor:
    return (torch.addmm if weight_OD.dim() == 2 else torch.baddbmm)(residual_ON, weight_OD, x_DN)


def join(weights: Sequence[Tensor]) -> Tensor:
    """Matrices [(R), O_i, D] as one [(R), sum of O_i, D]: without a copy when they are neighbours in memory."""
    first = weights[0]
    end, num_rows, dim = first.data_ptr(), 0, first.shape[-1]
    neighbours = first.stride()[-2:] == (dim, 1)
    for weight in weights:
        neighbours = neighbours and weight.data_ptr() == end and weight.stride() == first.stride()
        end += weight.shape[-2] * dim * weight.element_size()
        num_rows += weight.shape[-2]
    if not neighbours or weights[-1].untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
        return torch.cat(tuple(weights), dim=-2)
    return first.as_strided((*first.shape[:-2], num_rows, dim), first.stride())


# --------------------------------------------------------------------------------------- attention
#
# Heads first, positions last, [G, B, E, T]: query, key and value are each one batch of matrices. B counts
# the sequences of all runs. Queries go in blocks, and a block of queries meets the keys up to its own end.


def _attend(
    qkv: Tensor, cos_ET: Tensor, sin_ET: Tensor, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, list[Tensor]]:
    """[(R), G * E, N] to [(R), H * E, N], and what the backward pass needs: q, k, v, weights of each block."""
    head_dim, length = cos_ET.shape
    x_GBET = _heads_first(qkv, num_heads + 2 * num_kv_heads, head_dim, length)
    turned = torch.empty(x_GBET.shape, dtype=qkv.dtype, device=qkv.device)
    _turn(x_GBET, cos_ET, sin_ET, num_heads + num_kv_heads, turned)
    q, k, v = _split_heads(turned, num_heads, num_kv_heads)
    q.mul_(head_dim**-0.5)
    y = qkv.new_empty(*qkv.shape[:-2], num_heads * head_dim, qkv.shape[-1])
    y_HBET = _heads_first(y, num_heads, head_dim, length)
    weights = []
    for start, stop in _blocks(length):
        scores = torch.bmm(q[:, :, start:stop].mT, k[:, :, :stop])
        scores[:, :, start:].add_(_above_diagonal(stop - start, qkv))
        p = torch.softmax(scores, dim=-1)
        y_block = y_HBET[..., start:stop]
        y_block.copy_(torch.bmm(v[:, :, :stop], p.mT).view(y_block.shape))
        weights.append(p)
    return y, [q, k, v, *weights]


def _attend_backward(
    dy: Tensor, kept: Sequence[Tensor], cos_ET: Tensor, sin_ET: Tensor, num_heads: int, num_kv_heads: int
) -> Tensor:
    """Gradient [(R), G * E, N] of the projections."""
    q, k, v, *weights = kept
    head_dim, length = cos_ET.shape
    d_out = _heads_first(dy, num_heads, head_dim, length).reshape(q.shape)
    d_turned = q.new_empty(3, *q.shape)
    dq, dk, dv = d_turned.unbind()
    for (start, stop), p in zip(reversed(_blocks(length)), reversed(weights), strict=True):
        d_o, q_block = d_out[:, :, start:stop], q[:, :, start:stop]
        d_scores = _softmax_backward(torch.bmm(d_o.mT, v[:, :, :stop]), p, -1, p.dtype)
        torch.mul(torch.bmm(k[:, :, :stop], d_scores.mT), head_dim**-0.5, out=dq[:, :, start:stop])
        if stop == length:  # this block meets every key: it fills what the others add to
            torch.bmm(q_block, d_scores, out=dk)
            torch.bmm(d_o, p, out=dv)
        else:
            dk[:, :, :stop].add_(torch.bmm(q_block, d_scores))
            dv[:, :, :stop].add_(torch.bmm(d_o, p))
    num_all = num_heads + 2 * num_kv_heads
    d_qkv = dy.new_empty(*dy.shape[:-2], num_all * head_dim, dy.shape[-1])
    d_heads = _heads_first(d_qkv, num_all, head_dim, length)
    d_turned = _sum_shared_heads(d_turned, num_heads, num_kv_heads).view(d_heads.shape)
    _turn(d_turned, cos_ET, sin_ET, num_heads + num_kv_heads, d_heads, back=True)
    return d_qkv


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _heads_first(x: Tensor, num_heads: int, head_dim: int, length: int) -> Tensor:
    """A view of [(R), heads * E, B * T] as [heads, (R,) B, E, T]."""
    if x.dim() == 2:
        return x.view(num_heads, head_dim, -1, length).transpose(1, 2)
    return x.view(x.shape[0], num_heads, head_dim, -1, length).permute(1, 0, 3, 2, 4)


def _turn(
    x: Tensor, cos_ET: Tensor, sin_ET: Tensor, num_turned: int, out: Tensor, back: bool = False
) -> None:
    """Rotate the first heads (queries and keys) of [G, ..., E, T] and copy the others (values) into `out`."""
    half = cos_ET.shape[0] // 2
    x_turned, y = x[:num_turned], out[:num_turned]
    torch.mul(x_turned, cos_ET, out=y)
    sin_ET, sign = sin_ET[:half], -1 if back else 1
    y[..., :half, :].addcmul_(x_turned[..., half:, :], sin_ET, value=-sign)
    y[..., half:, :].addcmul_(x_turned[..., :half, :], sin_ET, value=sign)
    out[num_turned:].copy_(x[num_turned:])


def _split_heads(turned: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, ...]:
    """[G, ..., E, T] to query, key and value, each [H * B, E, T]; shared key-value heads are repeated."""
    if num_kv_heads == num_heads:
        return turned.view(3, -1, *turned.shape[-2:]).unbind()
    q, *shared = turned.split([num_heads, num_kv_heads, num_kv_heads])
    k, v = (x.repeat_interleave(num_heads // num_kv_heads, dim=0) for x in shared)
    return q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3)


def _sum_shared_heads(d_turned: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
    """Gradients [3, H * B, E, T] of query, key and value as [G, ...]: shared heads' gradients add up."""
    if num_kv_heads == num_heads:
        return d_turned
    dq, dk, dv = d_turned.view(3, num_heads, -1)
    shared = (x.view(num_kv_heads, num_heads // num_kv_heads, -1).sum(dim=1) for x in (dk, dv))
    return torch.cat((dq, *shared))


_masks: dict[tuple[int, torch.device], Tensor] = {}


def _above_diagonal(size: int, like: Tensor) -> Tensor:
    """Minus infinity above the diagonal, 0 elsewhere; made once per size and device."""
    key = (size, like.device)
    if key not in _masks:
        _masks[key] = torch.full((size, size), float("-inf"), device=like.device).triu_(1)
    return _masks[key]


# -------------------------------------------------------------------------------------------- loss


def norm_cross_entropy(x_DN: Tensor, gain: Tensor, eps: float, head: Tensor, targets: Tensor) -> Tensor:
    """Norm, output head and mean nats per token: x [(R), D, N], head [(R), V, D], targets [(R), N].

    Returns one number, or [R] of them for a stack. A token whose probability underflows in fp32 (below
    1e-38) counts 87 nats; a non-finite logit makes the loss NaN.
    """
    return _NormCrossEntropy.apply(x_DN, gain, eps, head, targets)


class _NormCrossEntropy(torch.autograd.Function):
    """The gradient of the logits is softmax - one_hot: kept from the forward pass, so nothing is done twice."""

    @staticmethod
    def forward(ctx: Any, x_DN: Tensor, gain: Tensor, eps: float, head: Tensor, targets: Tensor) -> Tensor:
        unit_DN, scale = _normalise(x_DN, eps)
        normed_DN = unit_DN * gain.unsqueeze(-1)
        p_NV = _take_buffer((*targets.shape, head.shape[-2]), x_DN)
        torch.matmul(normed_DN.mT, head.mT, out=p_NV)
        torch.softmax(p_NV, dim=-1, out=p_NV)
        index = targets.unsqueeze(-1)
        ctx.kept = (unit_DN, normed_DN, scale, gain, head, index, p_NV)
        tiny = torch.finfo(p_NV.dtype).tiny
        return p_NV.gather(-1, index).clamp_(min=tiny).log_().mean(dim=(-2, -1)).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        unit_DN, normed_DN, scale, gain, head, index, p_NV = _release(ctx)
        d_logits = p_NV.scatter_add_(-1, index, p_NV.new_full((), -1.0).expand(index.shape))
        share = (d_loss / index.shape[-2])[..., None, None]
        # With the narrow side first BLAS is up to twice as fast.
        d_head = torch.matmul(normed_DN, d_logits).mul_(share).mT
        d_normed = torch.matmul(head.mT, d_logits.mT).mul_(share)
        _give_buffer(p_NV)
        d_gain = (d_normed * unit_DN).sum(dim=-1)
        d_x = _normalise_backward(d_normed.mul_(gain.unsqueeze(-1)), unit_DN, scale, None)
        return d_x, d_gain, None, d_head, None


_buffers: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
"""Memory that was given back, one tensor per shape."""


def _take_buffer(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor: the one that was given back, if there is one.

    The logits are by far the largest tensor of a small net's step; fresh memory for them would cost as much
    (page by page, in the kernel) as the softmax itself.
    """
    free = _buffers.pop((shape, like.device), None)
    return torch.empty(shape, dtype=like.dtype, device=like.device) if free is None else free


def _give_buffer(tensor: Tensor) -> None:
    """Keep the memory for the next step."""
    _buffers[tuple(tensor.shape), tensor.device] = tensor
