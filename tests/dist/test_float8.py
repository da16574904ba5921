"""Float8 products: refused, with the remedy, where they cannot be; with torchao, the same parameters and nearly the
same products. Speed and the units themselves need a GPU and are not tested here."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import pytest
import torch

from isoflop.dist import float8, mesh, parallel
from isoflop.dist.float8 import require_float8, use_float8
from isoflop.dist.parallel import Wrapping
from isoflop.model.build import build_net
from isoflop.model.sharding import sharding_plan
from isoflop.records import MeshSpec, NetSpec
from tests.dist import runs

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NET = NetSpec(
    vocab_size=100, context=16, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=72
)
"""Heads suit the units; the feed-forward width, 72, does not."""


def test_a_cpu_is_refused_before_anything_is_wrapped() -> None:
    net = build_net(NET, torch.Generator().manual_seed(0))
    wrapping = Wrapping(precision="bf16", float8=True)
    with pytest.raises(ValueError, match="need a GPU; cpu has no units"):
        parallel.spread(net, sharding_plan(NET), mesh.join(MeshSpec()), wrapping)
    assert not net.call_blocks


@pytest.mark.parametrize(
    ("precision", "tensor", "capability", "installed", "words"),
    [
        ("fp32", 1, (9, 0), True, "go with precision bf16"),
        ("bf16", 2, (9, 0), True, "cannot be split over 2 tensor ranks"),
        ("bf16", 1, (8, 0), True, "an old GPU has no float8 units"),
        ("bf16", 1, (9, 0), False, "pip install torchao"),
        ("bf16", 1, (9, 0), True, None),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    tensor: int,
    capability: tuple[int, int],
    installed: bool,
    words: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    monkeypatch.setattr(float8.importlib.util, "find_spec", lambda name: object() if installed else None)
    if words is None:
        require_float8(GPU, precision=precision, tensor=tensor)
        return
    with pytest.raises(ValueError, match=words):
        require_float8(GPU, precision=precision, tensor=tensor)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_linear_maps_of_blocks_round_to_float8_and_keep_their_names() -> None:
    """e4m3 has 3 bits of mantissa: a product of rounded factors is off by some 2^-4 of its terms, less on average
    over them; so the loss of an untrained net stays near, and gradients point the same way."""
    plan, tokens = sharding_plan(NET), runs.tokens_of(0, NET)
    nets: list[Any] = [build_net(NET, torch.Generator().manual_seed(0)) for _ in range(2)]
    plain, rounded = nets
    before = [name for name, _ in rounded.named_parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao's own, at its import
        for block in rounded.get_submodule(plan.blocks).children():
            changed = use_float8(block, plan.columns + plan.rows, emulate=True)
    assert changed == ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    assert [name for name, _ in rounded.named_parameters()] == before
    losses = []
    for net in nets:
        net.call_blocks = True
        loss = net.next_token_loss(tokens)
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.02
    for name, parameter in rounded.named_parameters():
        expected = dict(plain.named_parameters())[name].grad
        cosine = torch.nn.functional.cosine_similarity(parameter.grad.flatten(), expected.flatten(), dim=0)
        assert cosine > 0.98, name
