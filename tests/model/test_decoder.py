"""The decoder is Llama: same logits as an independent re-implementation, causal, seeded, stackable."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch

from isoflop.flops.count import parameters
from isoflop.model import fused
from isoflop.model.build import build_net
from isoflop.model.decoder import Decoder
from isoflop.records import NetSpec, RopeScaling

SMALL = NetSpec(
    vocab_size=61, context=24, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, ffn_dim=20
)
TIED = msgspec.structs.replace(SMALL, tied_head=True)
SCALED = msgspec.structs.replace(
    SMALL,
    num_kv_heads=4,
    rope_theta=500.0,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16),
)
SPECS = {"grouped": SMALL, "tied": TIED, "scaled": SCALED}


def seeded(spec: NetSpec, seed: int = 0) -> Decoder:
    """A net whose gains differ from one, so that a gain in the wrong place is seen."""
    net = build_net(spec, torch.Generator().manual_seed(seed))
    assert isinstance(net, Decoder)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
    return net


def tokens_of(spec: NetSpec, batch: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(spec.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def plain_llama(spec: NetSpec, weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Llama's logits in float64 NumPy, loop by loop, from the published equations."""

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + spec.norm_eps) * gain

    def frequency(index: int) -> float:
        plain = spec.rope_theta ** (-2 * index / spec.head_dim)
        if spec.rope_scaling is None:
            return plain
        s = spec.rope_scaling
        wavelength = 2 * math.pi / plain
        if wavelength < s.original_context / s.high_freq_factor:
            return plain
        if wavelength > s.original_context / s.low_freq_factor:
            return plain / s.factor
        smooth = (s.original_context / wavelength - s.low_freq_factor) / (
            s.high_freq_factor - s.low_freq_factor
        )
        return (1 - smooth) * plain / s.factor + smooth * plain

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        half = spec.head_dim // 2
        out = np.empty_like(x)
        for i in range(half):
            angle = position * frequency(i)
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    logits = []
    for row in tokens:
        x = weights["model.embed_tokens.weight"][row]
        for layer in range(spec.num_layers):
            w = {k.split(f"layers.{layer}.")[1]: v for k, v in weights.items() if f"layers.{layer}." in k}
            h = norm(x, w["input_layernorm.weight"])
            mixed = np.zeros((len(row), spec.num_heads, spec.head_dim))
            q, k, v = (
                (h @ w[f"self_attn.{name}_proj.weight"].T).reshape(len(row), -1, spec.head_dim)
                for name in "qkv"
            )
            for head in range(spec.num_heads):
                shared = head // (spec.num_heads // spec.num_kv_heads)
                for t in range(len(row)):
                    scores = np.array(
                        [rotate(q[t, head], t) @ rotate(k[s, shared], s) for s in range(t + 1)]
                    ) / math.sqrt(spec.head_dim)
                    p = np.exp(scores - scores.max())
                    mixed[t, head] = (p / p.sum()) @ v[: t + 1, shared]
            x = x + mixed.reshape(len(row), -1) @ w["self_attn.o_proj.weight"].T
            h = norm(x, w["post_attention_layernorm.weight"])
            gate = h @ w["mlp.gate_proj.weight"].T
            x = (
                x
                + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
            )
        head_name = "model.embed_tokens.weight" if spec.tied_head else "lm_head.weight"
        logits.append(norm(x, weights["model.norm.weight"]) @ weights[head_name].T)
    return np.array(logits)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_are_llamas(spec: NetSpec) -> None:
    net = seeded(spec)
    tokens = tokens_of(spec, 2, 11)
    weights = {name: value.numpy().astype(np.float64) for name, value in net.state_dict().items()}
    expected = plain_llama(spec, weights, tokens.numpy())
    # fp32 against fp64: 2 layers of sums over at most 20 terms, logits of order 1; a few 1e-6.
    np.testing.assert_allclose(net(tokens).detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_equal_transformers(spec: NetSpec) -> None:
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.rope_scaling is not None:
        s = spec.rope_scaling
        rope = {
            "rope_type": "llama3",
            "rope_theta": spec.rope_theta,
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_context,
        }
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.dim,
        intermediate_size=spec.ffn_dim,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context,
        rms_norm_eps=spec.norm_eps,
        rope_theta=spec.rope_theta,
        rope_scaling=rope,
        tie_word_embeddings=spec.tied_head,
    )
    net = seeded(spec)
    theirs = transformers.LlamaForCausalLM(config)
    state = dict(net.state_dict())
    if spec.tied_head:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    tokens = tokens_of(spec, 2, 17)
    # Both in fp32, sums of at most 20 terms in another order.
    torch.testing.assert_close(net(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_parameter_count_is_the_one_of_flops(spec: NetSpec) -> None:
    net = seeded(spec)
    count = parameters(spec)
    by_part = {name: value.numel() for name, value in net.named_parameters()}
    assert sum(by_part.values()) == count.total
    assert by_part["model.embed_tokens.weight"] == count.embedding
    assert by_part.get("lm_head.weight", 0) == count.head
    assert sum(n for name, n in by_part.items() if "layers" in name or "model.norm" in name) == count.blocks


@pytest.mark.parametrize("fast", [True, False], ids=["fused", "plain"])
def test_no_token_sees_a_later_one(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fast:
        monkeypatch.setattr(fused, "usable", lambda x, weight: False)
    net = seeded(SMALL)
    tokens = tokens_of(SMALL, 1, 20)
    changed = tokens.clone()
    changed[0, 13] = (changed[0, 13] + 1) % SMALL.vocab_size
    before, after = net(tokens), net(changed)
    assert torch.equal(before[0, :13], after[0, :13])
    assert not torch.equal(before[0, 13:], after[0, 13:])


def test_a_seed_means_the_same_weights_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    one, two, other = (build_net(SMALL, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == name.endswith("norm.weight")


def test_initial_spread() -> None:
    spec = msgspec.structs.replace(SMALL, vocab_size=512, dim=32, init_std=0.05)
    net = build_net(spec, torch.Generator().manual_seed(0))
    weights = dict(net.named_parameters())
    # The standard deviation of n normal numbers has relative error 1/sqrt(2 n); 5 of those.
    for name, std in (("model.embed_tokens.weight", 0.05), ("model.layers.0.mlp.down_proj.weight", 0.025)):
        values = weights[name]
        assert abs(values.std().item() / std - 1) < 5 / math.sqrt(2 * values.numel())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "decodr"}, "known: decoder"),
        ({"options": {"qk_norm": True}}, "qk_norm"),
        ({"num_kv_heads": 3}, "must divide"),
        ({"head_dim": 5}, "must be even"),
        ({"num_layers": 0}, "num_layers is 0"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_net(msgspec.structs.replace(SMALL, **changes), torch.Generator())
