"""The fused functions are the plain ones: losses, gradients, stacks; and what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
import torch

from isoflop.model import fused
from isoflop.model.build import build_net
from isoflop.model.primitives import build_rotary
from isoflop.records import NetSpec

SPEC = NetSpec(
    vocab_size=50, context=160, dim=12, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=6, ffn_dim=20
)
GROUPED = msgspec.structs.replace(SPEC, num_heads=4, num_kv_heads=2, head_dim=4)
TIED = msgspec.structs.replace(SPEC, tied_head=True)


def loss_and_gradients(
    net: torch.nn.Module, tokens: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = net.next_token_loss(tokens)
    names, parameters = zip(*net.named_parameters(), strict=True)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss.sum(), parameters), strict=True))


@pytest.mark.parametrize("num_runs", [None, 3])
@pytest.mark.parametrize("length", [1, 5, 64, 65, 150])
@pytest.mark.parametrize("spec", [SPEC, GROUPED, TIED], ids=["plain", "grouped", "tied"])
def test_fused_equals_plain(
    spec: NetSpec, length: int, num_runs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(num_runs or 1)]
    net = build_net(spec, generators, num_runs)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    shape = (2, length + 1) if num_runs is None else (num_runs, 2, length + 1)
    tokens = torch.randint(spec.vocab_size, shape, generator=draw)
    loss, gradients = loss_and_gradients(net, tokens)
    monkeypatch.setattr(fused, "usable", lambda x, weight: False)
    plain_loss, plain_gradients = loss_and_gradients(net, tokens)
    # Two roundings of the same sums in fp32 (unit 6e-8), a few hundred terms: relative 1e-5 of each norm.
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        plain = plain_gradients[name]  # zero for queries and keys of a single position
        assert (gradient - plain).norm() <= 1e-5 * plain.norm(), name


def finite_differences(function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Compare the gradient of a weighted sum of the outputs with central differences, in fp64."""
    outputs = function(*inputs)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((outputs * weights).sum(), inputs)
    step = 1e-5
    for value, gradient in zip(inputs, gradients, strict=True):
        flat = value.detach().view(-1)
        for index in range(flat.numel()):
            kept, sides = flat[index].item(), []
            for side in (step, -step):
                flat[index] = kept + side
                with torch.no_grad():
                    sides.append((function(*inputs) * weights).sum().item())
            flat[index] = kept
            # Truncation is of order step^2 = 1e-10, rounding of order 1e-15 / step = 1e-10, times sums of order 10.
            expected = (sides[0] - sides[1]) / (2 * step)
            assert gradient.reshape(-1)[index].item() == pytest.approx(expected, abs=1e-7, rel=1e-6)


def test_gradients_agree_with_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "QUERY_BLOCK", 2)  # three blocks of a sequence of five
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)

    rotary = build_rotary(2, 5, 100.0)
    rotary = type(rotary)(*(table.double() for table in vars(rotary).values()))
    finite_differences(
        lambda x, gain, out, *p: fused.attention_half(x, gain, 1e-5, p, out, rotary, 2, 1),
        (values(3, 10), values(3), values(3, 4), values(4, 3), values(2, 3), values(2, 3)),
    )
    finite_differences(
        lambda x, gain, down, *p: fused.feed_forward_half(x, gain, 1e-5, p, down),
        (values(3, 10), values(3), values(3, 4), values(4, 3), values(4, 3)),
    )
    targets = torch.randint(7, (10,), generator=draw)
    finite_differences(
        lambda x, gain, head: fused.norm_cross_entropy(x, gain, 1e-5, head, targets),
        (values(3, 10), values(3), values(7, 3)),
    )


def test_neighbours_are_joined_without_a_copy() -> None:
    flat = torch.arange(30.0).view(10, 3)
    joined = fused.join((flat[:4], flat[4:6], flat[6:]))
    assert joined.data_ptr() == flat.data_ptr()
    assert torch.equal(joined, flat)
    apart = fused.join((flat[:4], flat[6:]))
    assert torch.equal(apart, torch.cat((flat[:4], flat[6:])))


def test_a_second_differentiation_is_refused() -> None:
    net = build_net(SPEC, torch.Generator().manual_seed(0))
    loss = net.next_token_loss(torch.zeros(1, 4, dtype=torch.long))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated before"):
        loss.backward()


def test_two_losses_may_be_alive_at_once() -> None:
    """The memory of one loss is not given to another before its gradients are taken."""
    net = build_net(SPEC, torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    batches = [torch.randint(SPEC.vocab_size, (2, 9), generator=draw) for _ in range(2)]
    alone = [loss_and_gradients(net, batch)[1]["lm_head.weight"] for batch in batches]
    losses = [net.next_token_loss(batch) for batch in batches]
    for loss, expected in zip(losses, alone, strict=True):
        (found,) = torch.autograd.grad(loss, [net.head])
        assert torch.equal(found, expected)


def test_a_blown_up_net_has_no_finite_loss() -> None:
    net = build_net(SPEC, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.head.fill_(float("inf"))
    assert not net.next_token_loss(torch.zeros(1, 4, dtype=torch.long)).isfinite()


def test_autocast_takes_the_plain_functions() -> None:
    net = build_net(SPEC, torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 9, dtype=torch.long)
    exact = net.next_token_loss(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.next_token_loss(tokens)
    assert rough != exact
    # bf16 keeps 8 bits: logits of order 0.1 are known to a few 1e-3.
    assert abs(rough - exact) < 2e-2
