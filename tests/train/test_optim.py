"""The flat AdamW is PyTorch's, with clipping; its state goes out and comes back."""

from __future__ import annotations

import copy

import msgspec
import pytest
import torch
from torch import nn

from isoflop.dist.norms import norm_of
from isoflop.model.build import build_net
from isoflop.records import NetSpec, OptimizerSpec
from isoflop.train.optim import AdamW

NET = NetSpec(
    vocab_size=23, context=8, dim=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, ffn_dim=12
)
SPEC = OptimizerSpec(peak_lr=0.01, grad_clip=0.3)


def net() -> nn.Module:
    return build_net(NET, torch.Generator().manual_seed(0))


def batches(count: int) -> torch.Tensor:
    return torch.randint(23, (count, 2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("decay_on", ["matrices", "all"])
@pytest.mark.parametrize("clip", [0.3, None])
def test_update_is_pytorchs(decay_on: str, clip: float | None) -> None:
    ours, theirs = net(), net()
    spec = msgspec.structs.replace(SPEC, decay_on=decay_on, grad_clip=clip)
    optimizer = AdamW(ours, spec)
    matrices = [p for p in theirs.parameters() if p.dim() > 1 or decay_on == "all"]
    rest = [p for p in theirs.parameters() if not (p.dim() > 1 or decay_on == "all")]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for step, batch in enumerate(batches(10)):
        fraction = 1 - 0.05 * step
        ours.next_token_loss(batch).backward()
        theirs.next_token_loss(batch).backward()
        expected_norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        for group in reference.param_groups:
            group["lr"] = 0.01 * fraction
        reference.step()
        reference.zero_grad()
        norm = optimizer.update(fraction)
        assert norm.item() == pytest.approx(expected_norm.item(), rel=1e-4)  # fp32 sums in another order
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # Ten updates of at most 0.01; a rounding of 1e-7 of a gradient can be amplified where Adam divides a
        # small moment by a small one, hence 1e-4 of an update.
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


def test_the_norm_of_a_large_gradient_is_exact() -> None:
    """Of five million numbers, in one buffer or in parts of uneven size. Squares of fp32 numbers summed over parts of
    16,384, and then over their norms: some 1e-7 each time, 1e-6 at most. In one sum it is above 1e-4."""
    flat = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    exact = flat.double().norm().item()
    for parts in ([flat], list(flat.split([3, 0, 2_500_000, 2_499_997]))):
        assert norm_of(parts).item() == pytest.approx(exact, rel=1e-6)


def test_projections_of_one_input_become_neighbours() -> None:
    from isoflop.model.fused import join

    model = net()
    AdamW(model, SPEC)
    attention = model.model.layers[0].self_attn
    weights = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
    assert join(weights).data_ptr() == weights[0].data_ptr()
    assert torch.equal(join(weights), torch.cat(weights))


def test_a_loaded_state_goes_on_bit_by_bit() -> None:
    whole, first = net(), net()
    optimizer, before = AdamW(whole, SPEC), AdamW(first, SPEC)
    data = batches(6)
    for batch in data[:3]:
        for model, adam in ((whole, optimizer), (first, before)):
            model.next_token_loss(batch).backward()
            adam.update(1.0)
    second = net()
    after = AdamW(second, SPEC)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    after.load({name: value.clone() for name, value in before.state().items()}, 3)
    for batch in data[3:]:
        for model, adam in ((whole, optimizer), (second, after)):
            model.next_token_loss(batch).backward()
            adam.update(0.5)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert set(after.state()) == {
        f"{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq") for name, _ in net().named_parameters()
    }
