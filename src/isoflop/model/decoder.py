"""A decoder that is Llama: in its equations, in its parameter names, in its layout of heads.

RMSNorm before each half of a block, rotary positions in the half-split form, grouped-query attention,
SwiGLU, a tied or untied head (Touvron et al. 2023; Llama Team 2024). Weights load from and save to Hugging
Face's files without renaming or permuting. With `num_runs` the same class is a stack of nets.

Leaves out sampling with a key-value cache, and how it is split over devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from isoflop.model import fused, primitives
from isoflop.model.primitives import Rotary
from isoflop.records import NetSpec


class Weight(nn.Module):
    """One weight, [(R), *shape]: a linear map, an embedding or the gain of a norm."""

    def __init__(self, *shape: int, num_runs: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*(() if num_runs is None else (num_runs,)), *shape))


class Linear(Weight):
    def forward(self, x: Tensor) -> Tensor:
        return primitives.linear(x, self.weight)


class Embedding(Weight):
    def forward(self, tokens: Tensor) -> Tensor:
        return primitives.embed(tokens, self.weight)


class Norm(Weight):
    def __init__(self, dim: int, eps: float, num_runs: int | None) -> None:
        super().__init__(dim, num_runs=num_runs)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return primitives.norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, net: NetSpec, num_runs: int | None) -> None:
        super().__init__()
        self.heads = (net.num_heads, net.num_kv_heads, net.num_kv_heads)
        self.head_dim = net.head_dim
        inner, shared = net.num_heads * net.head_dim, net.num_kv_heads * net.head_dim
        self.q_proj = Linear(inner, net.dim, num_runs=num_runs)
        self.k_proj = Linear(shared, net.dim, num_runs=num_runs)
        self.v_proj = Linear(shared, net.dim, num_runs=num_runs)
        self.o_proj = Linear(net.dim, inner, num_runs=num_runs)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(primitives.attend(q, k, v, rotary))


class FeedForward(nn.Module):
    def __init__(self, net: NetSpec, num_runs: int | None) -> None:
        super().__init__()
        self.gate_proj = Linear(net.ffn_dim, net.dim, num_runs=num_runs)
        self.up_proj = Linear(net.ffn_dim, net.dim, num_runs=num_runs)
        self.down_proj = Linear(net.dim, net.ffn_dim, num_runs=num_runs)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(primitives.gate(torch.cat((self.gate_proj(x), self.up_proj(x)), dim=-1)))


class Block(nn.Module):
    def __init__(self, net: NetSpec, num_runs: int | None) -> None:
        super().__init__()
        self.input_layernorm = Norm(net.dim, net.norm_eps, num_runs)
        self.self_attn = Attention(net, num_runs)
        self.post_attention_layernorm = Norm(net.dim, net.norm_eps, num_runs)
        self.mlp = FeedForward(net, num_runs)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        """x [(R), B, T, D]: the plain form."""
        x = x + self.self_attn(self.input_layernorm(x), rotary)
        return x + self.mlp(self.post_attention_layernorm(x))

    def fused(self, x_DN: Tensor, rotary: Rotary) -> Tensor:
        """x_DN [(R), D, N]: the same with fewer, larger operations."""
        attn, mlp, norm = self.self_attn, self.mlp, self.input_layernorm
        projections = (attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight)
        x_DN = fused.attention_half(
            x_DN, norm.weight, norm.eps, projections, attn.o_proj.weight, rotary, *attn.heads[:2]
        )
        norm = self.post_attention_layernorm
        gate_and_up = (mlp.gate_proj.weight, mlp.up_proj.weight)
        return fused.feed_forward_half(x_DN, norm.weight, norm.eps, gate_and_up, mlp.down_proj.weight)


class Backbone(nn.Module):
    """Everything below the head; the name `model` in the parameters is Hugging Face's."""

    def __init__(self, net: NetSpec, num_runs: int | None) -> None:
        super().__init__()
        self.embed_tokens = Embedding(net.vocab_size, net.dim, num_runs=num_runs)
        self.layers = nn.ModuleList(Block(net, num_runs) for _ in range(net.num_layers))
        self.norm = Norm(net.dim, net.norm_eps, num_runs)


class Decoder(nn.Module):
    """Token ids in, logits or a loss out.

    Args:
        spec: the shape.
        num_runs: None for one net; R for a stack whose weights, inputs and losses have a leading axis R.
    """

    def __init__(self, spec: NetSpec, num_runs: int | None = None) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        self.num_runs = num_runs
        self.call_blocks = False
        """True where blocks are wrapped (sharded, compiled, recomputed): then each is called, never inlined."""
        self.cross_entropy = primitives.cross_entropy
        """What turns features into a loss; another function where the vocabulary is split or taken in chunks."""
        self.model = Backbone(spec, num_runs)
        if not spec.tied_head:
            self.lm_head = Linear(spec.vocab_size, spec.dim, num_runs=num_runs)
        self._rotary: dict[tuple[int, torch.device], Rotary] = {}

    @property
    def head(self) -> Tensor:
        """Weight of the output head, [(R), V, D]."""
        return self.model.embed_tokens.weight if self.spec.tied_head else self.lm_head.weight

    def features(self, tokens: Tensor) -> Tensor:
        """What the head sees: tokens [(R), B, T] to [(R), B, T, D]. Any T: positions are made as needed."""
        x = self.model.embed_tokens(tokens)
        if self._fuses(x):
            return self.model.norm(self._fused_blocks(x).mT.reshape(x.shape))
        return self.model.norm(self._blocks(x, tokens.shape[-1]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [(R), B, T, V] of the next token at each position of tokens [(R), B, T]."""
        return primitives.linear(self.features(tokens), self.head)

    def next_token_loss(self, tokens: Tensor) -> Tensor:
        """Mean nats per predicted token of sequences [(R), B, T + 1]; [R] of them for a stack."""
        inputs, targets = tokens[..., :-1], tokens[..., 1:]
        x, norm = self.model.embed_tokens(inputs), self.model.norm
        if self._fuses(x):
            x_DN = self._fused_blocks(x)
            return fused.norm_cross_entropy(x_DN, norm.weight, norm.eps, self.head, targets.flatten(-2))
        return self.cross_entropy(norm(self._blocks(x, inputs.shape[-1])), self.head, targets)

    def _fuses(self, x: Tensor) -> bool:
        return not self.call_blocks and fused.usable(x, self.head)

    def _blocks(self, x: Tensor, length: int) -> Tensor:
        """x through all blocks; `length` is told because x may hold one rank's share of the positions."""
        rotary = self.rotary(length, x.device)
        for block in self.model.layers:
            x = block(x, rotary)
        return x

    def _fused_blocks(self, x: Tensor) -> Tensor:
        """x [(R), B, T, D] through all blocks, to [(R), D, B * T]."""
        rotary = self.rotary(x.shape[-2], x.device)
        x_DN = x.flatten(-3, -2).mT.contiguous()
        for block in self.model.layers:
            assert isinstance(block, Block)
            x_DN = block.fused(x_DN, rotary)
        return x_DN

    def rotary(self, length: int, device: torch.device) -> Rotary:
        """Position tables, made once per length and device."""
        key = (length, device)
        if key not in self._rotary:
            spec = self.spec
            self._rotary[key] = primitives.build_rotary(
                spec.head_dim, length, spec.rope_theta, spec.rope_scaling, device
            )
        return self._rotary[key]

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Set the weights to what `draw` gives, a stack's slice r from generators[r] alone."""
        parameters = dict(self.named_parameters())
        for index, generator in zip(range(self.num_runs or 1), generators, strict=True):
            for name, weight in self.draw(generator):
                (parameters[name] if self.num_runs is None else parameters[name][index]).copy_(weight)

    def draw(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Initial weights of one net by name, one after the other, in fp32 on the CPU.

        Normal with `init_std`; the two projections that write to the residual stream are scaled by
        1/sqrt(2 L) (Radford et al. 2019, section 2.3); gains start at one. Drawn on the CPU in the order of
        `named_parameters`, so that a seed means the same weights on every device.
        """
        for name, parameter in self.named_parameters():
            shape = parameter.shape if self.num_runs is None else parameter.shape[1:]
            if name.endswith("norm.weight"):
                yield name, torch.ones(shape)
                continue
            std = self.spec.init_std
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * self.spec.num_layers) ** 0.5
            yield name, torch.empty(shape).normal_(0.0, std, generator=generator)


def _check(spec: NetSpec) -> None:
    """Refuse shapes and options that this family does not have."""
    if spec.options:
        raise ValueError(f"a decoder takes no options; found {', '.join(sorted(spec.options))}")
    for name in (
        "vocab_size",
        "context",
        "dim",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "ffn_dim",
    ):
        if getattr(spec, name) < 1:
            raise ValueError(f"{name} is {getattr(spec, name)}; it takes 1 or more")
    if spec.num_heads % spec.num_kv_heads:
        raise ValueError(
            f"{spec.num_heads} query heads cannot share {spec.num_kv_heads} key-value heads equally; "
            "num_kv_heads must divide num_heads"
        )
    if spec.head_dim % 2:
        raise ValueError(f"head_dim is {spec.head_dim}; rotary positions turn pairs, so it must be even")
