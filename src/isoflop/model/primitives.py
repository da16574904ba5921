"""The five primitives that every net is made of, and the two functions that go with them.

    linear, embed, norm, attend, convolve       and gate (SwiGLU), cross_entropy

Only these know about a leading run axis: with weights [O, D] they work on one net, with weights
[R, O, D] on R nets of the same shape at once, which are trained in one step and never mix. What is
written here is the plain form, one line of mathematics after the other; it runs under autocast, compiled,
and on sharded tensors. `isoflop.model.fused` holds the same functions with gradients written by hand.

Legend: R runs, B sequences, T positions, D width, O output features, H query heads, K key-value heads,
E head size, V vocabulary, W kernel width. (R) means: present when the net is a stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.records import RopeScaling


@dataclass(frozen=True)
class Rotary:
    """Rotary position tables of the half-split form, [T, E], and the same as [E, T]."""

    cos_TE: Tensor
    sin_TE: Tensor
    cos_ET: Tensor
    sin_ET: Tensor


def build_rotary(
    head_dim: int,
    length: int,
    theta: float,
    scaling: RopeScaling | None = None,
    device: torch.device | str | None = None,
) -> Rotary:
    """Tables of cos and sin for positions 0 to length-1.

    Frequencies theta^(-2i/E) (Su et al. 2021, section 3.2.2), in the half-split layout of Hugging Face's
    Llama: dimension i turns with dimension i + E/2. With `scaling`, Llama-3.1's rule: wavelengths longer
    than the original context over `low_freq_factor` are stretched by `factor`, those shorter than the
    original context over `high_freq_factor` are kept, and between the two it is interpolated.
    """
    # Everything in fp32, operation by operation as the published weights were trained and as transformers
    # computes it: one rounding of a frequency is 5e-4 of an angle at position 8192.
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is not None:
        turns = scaling.original_context / (2 * math.pi / frequencies)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        share = (turns - low) / (high - low)
        between = (1 - share) * frequencies / scaling.factor + share * frequencies
        kept_or_between = torch.where(turns > high, frequencies, between)
        frequencies = torch.where(turns < low, frequencies / scaling.factor, kept_or_between)
    angles_TE = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    cos_TE, sin_TE = angles_TE.cos().to(device), angles_TE.sin().to(device)
    return Rotary(cos_TE, sin_TE, cos_TE.mT.contiguous(), sin_TE.mT.contiguous())


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [(R), ..., D] times weight [(R), O, D], transposed: [(R), ..., O]."""
    if weight.dim() == 2:
        return F.linear(x, weight)
    return torch.bmm(x.flatten(1, -2), weight.mT).view(*x.shape[:-1], weight.shape[1])


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [(R), V, D] for tokens [(R), B, T]: [(R), B, T, D]."""
    if weight.dim() == 2:
        return F.embedding(tokens, weight)
    num_runs, vocab_size, dim = weight.shape
    offset = torch.arange(num_runs, device=tokens.device).view(-1, *[1] * (tokens.dim() - 1)) * vocab_size
    return F.embedding(tokens + offset, weight.reshape(num_runs * vocab_size, dim))


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm (Zhang and Sennrich 2019) of x [(R), ..., D] with gain [(R), D]."""
    if gain.dim() == 1:
        return F.rms_norm(x, (x.shape[-1],), gain, eps)
    return F.rms_norm(x, (x.shape[-1],), None, eps) * gain.view(-1, *[1] * (x.dim() - 2), x.shape[-1])


def attend(q: Tensor, k: Tensor, v: Tensor, rotary: Rotary) -> Tensor:
    """Causal attention with rotary positions and grouped queries.

    Args:
        q: [(R), B, T, H, E].
        k, v: [(R), B, T, K, E]; K divides H, and H/K neighbouring query heads share a key head.
        rotary: tables of T positions.

    Returns [(R), B, T, H * E]. A run axis is folded into the batch: sequences never meet anyway.
    """
    lead = q.shape[:-2]
    num_heads, head_dim = q.shape[-2:]
    q, k, v = (x.reshape(-1, *x.shape[-3:]).transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(
        _rotate(q, rotary), _rotate(k, rotary), v, is_causal=True, enable_gqa=k.shape[1] != num_heads
    )
    return y.transpose(1, 2).reshape(*lead, num_heads * head_dim)


def _rotate(x_BHTE: Tensor, rotary: Rotary) -> Tensor:
    first, second = x_BHTE.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BHTE * rotary.cos_TE.to(x_BHTE.dtype) + turned * rotary.sin_TE.to(x_BHTE.dtype)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Causal convolution of each feature by itself: x [(R), B, T, D], weight [(R), D, W].

    Position t sees t-W+1 to t; weight[..., -1] meets the present. What lies before the start is zero.
    """
    if weight.dim() == 2:
        return _convolve_BTD(x, weight)
    num_runs, _, length, dim = x.shape  # runs become features of one convolution
    x_BTRD = x.permute(1, 2, 0, 3).flatten(2)
    y_BTRD = _convolve_BTD(x_BTRD, weight.flatten(0, 1))
    return y_BTRD.view(-1, length, num_runs, dim).permute(2, 0, 1, 3)


def _convolve_BTD(x_BTD: Tensor, weight_DW: Tensor) -> Tensor:
    dim, width = weight_DW.shape
    padded = F.pad(x_BTD.transpose(1, 2), (width - 1, 0))
    return F.conv1d(padded, weight_DW.unsqueeze(1), groups=dim).transpose(1, 2)


def gate(gate_and_up: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020): silu of the first half of the features, times the second half."""
    first, second = gate_and_up.chunk(2, dim=-1)
    return F.silu(first) * second


def cross_entropy(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token of an output head: x [(R), B, T, D], head [(R), V, D], targets [(R), B, T].

    Returns one number, or [R] of them for a stack. Logits are compared in fp32 whatever their type.
    """
    logits = linear(x, head).float()
    if head.dim() == 2:
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return nats.view(head.shape[0], -1).mean(dim=1)
