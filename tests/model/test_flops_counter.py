"""The exact FLOP count is what PyTorch counts while the plain net runs."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoflop.flops.count import forward_flops_per_token, train_flops_per_token
from isoflop.model import fused
from isoflop.model.build import build_net
from isoflop.records import NetSpec

SPEC = NetSpec(
    vocab_size=64, context=32, dim=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, ffn_dim=40
)


@pytest.mark.parametrize(
    "spec", [SPEC, msgspec.structs.replace(SPEC, tied_head=True, num_kv_heads=4)], ids=["grouped", "tied"]
)
def test_matmul_full_is_what_the_flop_counter_counts(spec: NetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "usable", lambda x, weight: False)
    net = build_net(spec, torch.Generator().manual_seed(0))
    tokens = torch.randint(spec.vocab_size, (3, spec.context + 1), generator=torch.Generator().manual_seed(0))
    # The explicit form of attention: a fused kernel would count the products that it computes again.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = net.next_token_loss(tokens)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    num_tokens = 3 * spec.context
    assert forward.get_total_flops() == forward_flops_per_token(spec, "matmul-full") * num_tokens
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == train_flops_per_token(spec, "matmul-full") * num_tokens
