"""The primitives know the run axis: R nets at once are R nets one by one."""

from __future__ import annotations

import pytest
import torch

from isoflop.model import primitives

DRAW = torch.Generator().manual_seed(0)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=DRAW)


def test_every_primitive_stacks() -> None:
    runs, batch, length, dim = 3, 2, 7, 6
    x, weight = values(runs, batch, length, dim), values(runs, 5, dim)
    tokens = torch.randint(11, (runs, batch, length), generator=DRAW)
    table, gain, kernel = values(runs, 11, dim), values(runs, dim), values(runs, dim, 3)
    rotary = primitives.build_rotary(4, length, 100.0)
    q, k, v = (
        values(runs, batch, length, 4, 4),
        values(runs, batch, length, 2, 4),
        values(runs, batch, length, 2, 4),
    )
    stacked = {
        "linear": primitives.linear(x, weight),
        "embed": primitives.embed(tokens, table),
        "norm": primitives.norm(x, gain, 1e-5),
        "attend": primitives.attend(q, k, v, rotary),
        "convolve": primitives.convolve(x, kernel),
        "cross_entropy": primitives.cross_entropy(x, table, tokens),
    }
    for run in range(runs):
        single = {
            "linear": primitives.linear(x[run], weight[run]),
            "embed": primitives.embed(tokens[run], table[run]),
            "norm": primitives.norm(x[run], gain[run], 1e-5),
            "attend": primitives.attend(q[run], k[run], v[run], rotary),
            "convolve": primitives.convolve(x[run], kernel[run]),
            "cross_entropy": primitives.cross_entropy(x[run], table[run], tokens[run]),
        }
        for name, value in single.items():
            # fp32 sums of at most 11 terms of order 1, in another order.
            torch.testing.assert_close(stacked[name][run], value, atol=1e-5, rtol=1e-5, msg=name)


def test_convolution_is_causal_and_is_the_sum_it_says() -> None:
    x, kernel = values(1, 9, 2), values(2, 3)
    y = primitives.convolve(x, kernel)
    for t in range(9):
        for feature in range(2):
            expected = sum(
                x[0, t - back, feature] * kernel[feature, 2 - back] for back in range(3) if t - back >= 0
            )
            assert y[0, t, feature].item() == pytest.approx(float(expected), abs=1e-5)  # three fp32 products


def test_gate_and_norm_are_their_formulas() -> None:
    x, gain = values(4, 6), values(6)
    first, second = x[:, :3], x[:, 3:]
    torch.testing.assert_close(primitives.gate(x), first * torch.sigmoid(first) * second)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
    torch.testing.assert_close(primitives.norm(x, gain, 1e-5), expected)
