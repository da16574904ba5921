"""The primitives again, fused where a small net spends its time, with gradients written by hand.

A net of a few ten thousand parameters spends most of a step between operations, not in them. So here a
norm goes with the products that follow it, projections of the same input are one product, attention skips
the blocks above the diagonal, the loss keeps the softmax it has computed, and everything is laid out with
positions last: loops over the few features of a head are short, loops over positions are long. The
mathematics is that of `isoflop.model.primitives`, the rounding is not quite; tests compare the two. Used
in fp32 on plain tensors; autocast, compilation and sharded tensors take the plain functions.

Columns are the positions of all sequences, one after the other: x_DN is [D, N] for one net and [R, D, N]
for a stack, N = B * T. Legend: as in `primitives`, and G = H + 2 K (heads of query, key and value).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from isoflop.model import primitives
from isoflop.model.primitives import Rotary

LONGEST_DENSE = 256
"""Up to this many positions attention keeps its weights; beyond, it computes them again (SDPA)."""
QUERY_BLOCK = 64
"""Queries per block; keys behind the last query of a block are never touched."""

_softmax_backward = torch.ops.aten._softmax_backward_data.default
_silu_backward = torch.ops.aten.silu_backward.grad_input


def usable(x: Tensor, weight: Tensor) -> bool:
    """True where these functions may stand in for the plain ones."""
    return (
        type(x) is Tensor
        and x.dtype == torch.float32
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
    )


# ------------------------------------------------------------------------------- norm and products


def norm_linear(x_DN: Tensor, gain: Tensor, eps: float, weights: Sequence[Tensor]) -> Tensor:
    """Norm, then several linear maps of the result, their outputs one below the other.

    Args:
        x_DN: [(R), D, N].
        gain: [(R), D].
        weights: each [(R), O_i, D]; one product when they lie beside each other in memory.

    Returns [(R), sum of O_i, N].
    """
    return _NormLinear.apply(x_DN, gain, eps, *weights)


class _NormLinear(torch.autograd.Function):
    """The gain multiplies the weights, [O, D], instead of the input, [D, N]: the product is the same."""

    @staticmethod
    def forward(ctx: Any, x_DN: Tensor, gain: Tensor, eps: float, *weights: Tensor) -> Tensor:
        unit_DN, scale = _normalise(x_DN, eps)
        weight_OD = join(weights)
        scaled_OD = weight_OD * gain.unsqueeze(-2)
        ctx.save_for_backward(unit_DN, scale, gain, weight_OD, scaled_OD)
        ctx.widths = [weight.shape[-2] for weight in weights]
        return torch.matmul(scaled_OD, unit_DN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ON: Tensor) -> tuple[Tensor | None, ...]:
        unit_DN, scale, gain, weight_OD, scaled_OD = ctx.saved_tensors
        d_scaled_OD = torch.matmul(dy_ON, unit_DN.mT)
        d_gain = (d_scaled_OD * weight_OD).sum(dim=-2)
        d_weights = d_scaled_OD.mul_(gain.unsqueeze(-2)).split(ctx.widths, dim=-2)
        d_x = _normalise_backward(torch.matmul(scaled_OD.mT, dy_ON), unit_DN, scale)
        return d_x, d_gain, None, *d_weights


def _normalise(x_DN: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), and 1 / rms(x)."""
    scale = (x_DN * x_DN).mean(dim=-2, keepdim=True).add_(eps).rsqrt_()
    return x_DN * scale, scale


def _normalise_backward(d_unit_DN: Tensor, unit_DN: Tensor, scale: Tensor) -> Tensor:
    """Uses up `d_unit_DN`."""
    along = (d_unit_DN * unit_DN).mean(dim=-2, keepdim=True)
    return d_unit_DN.addcmul_(unit_DN, along, value=-1).mul_(scale)


def join(weights: Sequence[Tensor]) -> Tensor:
    """Matrices [(R), O_i, D] as one [(R), sum of O_i, D]: without a copy when they are neighbours in memory."""
    first = weights[0]
    if len(weights) == 1:
        return first
    end, num_rows, dim = first.data_ptr(), 0, first.shape[-1]
    neighbours = first.stride()[-2:] == (dim, 1)
    for weight in weights:
        neighbours = neighbours and weight.data_ptr() == end and weight.stride() == first.stride()
        end += weight.shape[-2] * dim * weight.element_size()
        num_rows += weight.shape[-2]
    if not neighbours or weights[-1].untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
        return torch.cat(tuple(weights), dim=-2)
    return first.as_strided((*first.shape[:-2], num_rows, dim), first.stride())


def add_linear(residual_ON: Tensor, x_DN: Tensor, weight_OD: Tensor) -> Tensor:
    """residual [(R), O, N] + weight [(R), O, D] times x [(R), D, N]."""
    return (torch.addmm if weight_OD.dim() == 2 else torch.baddbmm)(residual_ON, weight_OD, x_DN)


def gate(x_FN: Tensor) -> Tensor:
    """SwiGLU of [(R), 2 F, N]: silu of the first half of the features times the second half."""
    return _Gate.apply(x_FN)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_FN: Tensor) -> Tensor:
        first, second = x_FN.chunk(2, dim=-2)
        silu = F.silu(first)
        ctx.save_for_backward(first, second, silu)
        return silu * second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_FN: Tensor) -> Tensor:
        first, second, silu = ctx.saved_tensors
        dx_FN = dy_FN.new_empty(*dy_FN.shape[:-2], 2 * dy_FN.shape[-2], dy_FN.shape[-1])
        d_first, d_second = dx_FN.chunk(2, dim=-2)
        torch.mul(dy_FN, silu, out=d_second)
        _silu_backward(dy_FN * second, first, grad_input=d_first)
        return dx_FN


# --------------------------------------------------------------------------------------- attention


def attend(qkv: Tensor, rotary: Rotary, num_heads: int, num_kv_heads: int) -> Tensor:
    """Causal attention of projections that lie below each other: [(R), G * E, N] to [(R), H * E, N]."""
    if rotary.cos_TE.shape[0] > LONGEST_DENSE:
        return _attend_long(qkv, rotary, num_heads, num_kv_heads)
    return _Attend.apply(qkv, rotary.cos_TE, rotary.sin_TE, num_heads, num_kv_heads)


def _attend_long(qkv: Tensor, rotary: Rotary, num_heads: int, num_kv_heads: int) -> Tensor:
    length, head_dim = rotary.cos_TE.shape
    heads = qkv.mT.reshape(-1, length, num_heads + 2 * num_kv_heads, head_dim)
    q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=-2)
    out = primitives.attend(q, k, v, rotary)
    return out.view(*qkv.shape[:-2], qkv.shape[-1], num_heads * head_dim).mT


class _Attend(torch.autograd.Function):
    """Heads first, positions last, [G, B, E, T]: query, key and value are each one batch of matrices.

    B counts the sequences of all runs. Queries go in blocks, and a block of queries meets the keys up to
    its own end; above the diagonal of its last part the scores are minus infinity.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, num_kv_heads: int) -> Tensor:
        length, head_dim = cos.shape
        x_GBET = _heads_first(qkv, num_heads + 2 * num_kv_heads, head_dim, length)
        turned = torch.empty(x_GBET.shape, dtype=qkv.dtype, device=qkv.device)
        _turn(x_GBET, cos.mT, sin.mT, num_heads + num_kv_heads, out=turned)
        turned[:num_heads].mul_(head_dim**-0.5)
        q, k, v = _split_heads(turned, num_heads, num_kv_heads)
        weights, outputs = [], []
        for start, stop in _blocks(length):
            scores = torch.bmm(q[:, :, start:stop].mT, k[:, :, :stop])
            scores[:, :, start:].add_(_above_diagonal(stop - start, qkv))
            weights.append(torch.softmax(scores, dim=-1))
            outputs.append(torch.bmm(v[:, :, :stop], weights[-1].mT))
        ctx.save_for_backward(q, k, v, cos, sin, *weights)
        ctx.heads = (num_heads, num_kv_heads)
        y = qkv.new_empty(*qkv.shape[:-2], num_heads * head_dim, qkv.shape[-1])
        y_HBET = _heads_first(y, num_heads, head_dim, length)
        y_HBET.copy_(torch.cat(outputs, dim=2).view(y_HBET.shape))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, *weights = ctx.saved_tensors
        num_heads, num_kv_heads = ctx.heads
        length, head_dim = cos.shape
        d_out = _heads_first(dy, num_heads, head_dim, length).reshape(q.shape)
        d_turned = q.new_empty(3, *q.shape)
        dq, dk, dv = d_turned
        dq_blocks = []
        for (start, stop), p in zip(reversed(_blocks(length)), reversed(weights), strict=True):
            d_o = d_out[:, :, start:stop]
            d_scores = _softmax_backward(torch.bmm(d_o.mT, v[:, :, :stop]), p, -1, p.dtype)
            dq_blocks.append(torch.bmm(k[:, :, :stop], d_scores.mT))
            if stop == length:  # this block meets every key: it fills what the others add to
                torch.bmm(q[:, :, start:stop], d_scores, out=dk)
                torch.bmm(d_o, p, out=dv)
            else:
                dk[:, :, :stop].add_(torch.bmm(q[:, :, start:stop], d_scores))
                dv[:, :, :stop].add_(torch.bmm(d_o, p))
        torch.cat(dq_blocks[::-1], dim=2, out=dq).mul_(head_dim**-0.5)
        d_turned = _sum_shared_heads(d_turned, num_heads, num_kv_heads)
        num_all = num_heads + 2 * num_kv_heads
        d_qkv = dy.new_empty(*dy.shape[:-2], num_all * head_dim, dy.shape[-1])
        d_heads = _heads_first(d_qkv, num_all, head_dim, length)
        _turn(d_turned.view(d_heads.shape), cos.mT, sin.mT.neg(), num_heads + num_kv_heads, out=d_heads)
        return d_qkv, None, None, None, None


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _heads_first(x: Tensor, num_heads: int, head_dim: int, length: int) -> Tensor:
    """A view of [(R), heads * E, B * T] as [heads, (R,) B, E, T]."""
    if x.dim() == 2:
        return x.view(num_heads, head_dim, -1, length).transpose(1, 2)
    return x.view(x.shape[0], num_heads, head_dim, -1, length).permute(1, 0, 3, 2, 4)


def _turn(x: Tensor, cos_ET: Tensor, sin_ET: Tensor, num_turned: int, out: Tensor) -> None:
    """Rotate the first heads (queries and keys) of [G, ..., E, T] and copy the others (values) into `out`."""
    half = cos_ET.shape[0] // 2
    x_turned, y = x[:num_turned], out[:num_turned]
    torch.mul(x_turned, cos_ET, out=y)
    y[..., :half, :].addcmul_(x_turned[..., half:, :], sin_ET[:half], value=-1)
    y[..., half:, :].addcmul_(x_turned[..., :half, :], sin_ET[half:])
    out[num_turned:].copy_(x[num_turned:])


def _split_heads(turned: Tensor, num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[G, ..., E, T] to query, key and value, each [H * B, E, T]; shared key-value heads are repeated."""
    q, k, v = turned.split([num_heads, num_kv_heads, num_kv_heads])
    if num_kv_heads != num_heads:
        k, v = (x.repeat_interleave(num_heads // num_kv_heads, dim=0) for x in (k, v))
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
        scaled_VD = head * gain.unsqueeze(-2)
        p_NV = _take_buffer((*targets.shape, head.shape[-2]), x_DN)
        torch.matmul(unit_DN.mT, scaled_VD.mT, out=p_NV)
        torch.softmax(p_NV, dim=-1, out=p_NV)
        index = targets.unsqueeze(-1)
        ctx.save_for_backward(unit_DN, scale, gain, head, scaled_VD, index)
        ctx.p_NV = p_NV
        tiny = torch.finfo(p_NV.dtype).tiny
        return p_NV.gather(-1, index).clamp_(min=tiny).log_().mean(dim=(-2, -1)).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        unit_DN, scale, gain, head, scaled_VD, index = ctx.saved_tensors
        p_NV, ctx.p_NV = ctx.p_NV, None
        if p_NV is None:
            raise RuntimeError("this loss was differentiated before; compute it again instead")
        d_logits = p_NV.scatter_add_(-1, index, p_NV.new_full((), -1.0).expand(index.shape))
        share = (d_loss / index.shape[-2])[..., None, None]
        # With the narrow side first BLAS is up to twice as fast.
        d_scaled_VD = torch.matmul(unit_DN, d_logits).mul_(share).mT
        d_unit = torch.matmul(scaled_VD.mT, d_logits.mT).mul_(share)
        _give_buffer(p_NV)
        d_gain = (d_scaled_VD * head).sum(dim=-2)
        d_head = d_scaled_VD * gain.unsqueeze(-2)
        return _normalise_backward(d_unit, unit_DN, scale), d_gain, None, d_head, None


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
