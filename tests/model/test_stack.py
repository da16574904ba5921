"""A stack of three nets with a rate of their own each is three nets trained one by one."""

from __future__ import annotations

import msgspec
import pytest
import torch

from isoflop.model.build import build_net
from isoflop.records import NetSpec, OptimizerSpec
from isoflop.train.objectives import next_token
from isoflop.train.optim import AdamW, StackedAdamW
from isoflop.train.step import train_step

SPEC = NetSpec(
    vocab_size=31, context=16, dim=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, ffn_dim=16
)
RATES = (1e-3, 1e-2, 3e-2)
OPTIMIZER = OptimizerSpec(peak_lr=1.0, grad_clip=0.5)


def optimizer_specs() -> list[OptimizerSpec]:
    return [msgspec.structs.replace(OPTIMIZER, peak_lr=rate) for rate in RATES]


def test_stack_equals_singles() -> None:
    draw = torch.Generator().manual_seed(7)
    tokens = torch.randint(31, (12, 3, 2, 17), generator=draw)  # steps, runs, sequences, positions
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    stack = build_net(SPEC, generators, 3)
    optimizer = StackedAdamW(stack, optimizer_specs())
    stacked = [
        train_step(stack, next_token, optimizer, batch, draw, 1.0 - 0.02 * step).loss
        for step, batch in enumerate(tokens)
    ]
    for run, spec in enumerate(optimizer_specs()):
        net = build_net(SPEC, torch.Generator().manual_seed(run))
        single = AdamW(net, spec)
        for step, batch in enumerate(tokens[:, run]):
            loss = train_step(net, next_token, single, batch, draw, 1.0 - 0.02 * step).loss
            # Twelve updates in fp32; the rounding of a step (1e-7 relative) grows with Adam's division by
            # small second moments.
            assert stacked[step][run].item() == pytest.approx(loss.item(), abs=1e-5)


def test_a_run_that_blows_up_leaves_the_others_alone() -> None:
    draw = torch.Generator().manual_seed(7)
    tokens = torch.randint(31, (5, 3, 2, 17), generator=draw)
    losses = {}
    for broken in (False, True):
        stack = build_net(SPEC, [torch.Generator().manual_seed(seed) for seed in range(3)], 3)
        optimizer = StackedAdamW(stack, optimizer_specs())
        if broken:
            with torch.no_grad():
                stack.head[1] = float("nan")
        losses[broken] = torch.stack(
            [train_step(stack, next_token, optimizer, batch, draw, 1.0).loss for batch in tokens]
        )
        assert optimizer.alive_R.tolist() == [True, not broken, True]
    assert torch.equal(losses[True][:, [0, 2]], losses[False][:, [0, 2]])
    assert losses[True][:, 1].isnan().all()


def test_what_cannot_be_stacked_is_refused() -> None:
    specs = [OPTIMIZER, msgspec.structs.replace(OPTIMIZER, weight_decay=0.0)]
    stack = build_net(SPEC, [torch.Generator(), torch.Generator()], 2)
    with pytest.raises(ValueError, match="peak_lr alone"):
        StackedAdamW(stack, specs)
