"""What a token costs: parameters and floating-point operations of a net, under a named convention.

Takes a `NetSpec` and numbers, returns numbers; no torch, no files, no clock. Left out on purpose, in every
convention: norms, rotary embedding, softmax, activation, the loss and the optimizer step, which are not
matrix products; the token embedding's look-up, which multiplies nothing; and what a fused attention kernel
computes a second time inside its own backward pass.

One multiply-add is two FLOPs. With B the weights of a block's matrices, L layers, H heads of size h,
V the vocabulary, d the width, T the context, a forward pass costs per token

    matmul-full     2 (L B + V d) + 4 L H h T            every query meets every key
    matmul-causal   2 (L B + V d) + 4 L H h (T + 1)/2    the mean number of keys that a query may see

and a training step three times that: the backward pass forms two products for each one of the forward
pass. "+recompute" adds one more forward pass of the blocks (not of the head), for activation
checkpointing. "6N" counts six FLOPs per parameter and no attention scores (Kaplan et al. 2020, section 2.1,
without embeddings and head; Hoffmann et al. 2022 in their shorthand, with all parameters).

The same net, five numbers. Width 512, 8 layers, 8 heads, a gated feed-forward of 1,536, vocabulary 32,768
untied, context 2,048; MFLOPs per training token:

>>> net = NetSpec(vocab_size=32768, context=2048, dim=512, num_layers=8, num_heads=8, num_kv_heads=8,
...               head_dim=64, ffn_dim=1536)
>>> for convention, flops in every_convention(net).items():
...     print(f"{convention:24} {flops / 1e6:6.1f}")
6N-nonembedding           163.6
6N-all                    365.0
matmul-causal             314.6
matmul-full               364.9
matmul-causal+recompute   385.9
matmul-full+recompute     453.0

A budget is therefore a pair, number and convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from isoflop.records import Convention, FlopCount, NetSpec

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
"""Every convention, in the order in which they are shown."""

RECOMPUTE = "+recompute"


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """The parameters of a net, by what they do. All counts are numbers of scalars."""

    embedding: int
    """Token embedding."""
    head: int
    """Output head's own parameters; 0 when it shares the token embedding."""
    attention: int
    """Query, key, value and output projections of all blocks."""
    feed_forward: int
    """Gate, up and down projections of all blocks."""
    norms: int
    """Gains of every norm, the last one before the head included."""

    @property
    def blocks(self) -> int:
        """Everything but embedding and head; the norms are in it."""
        return self.attention + self.feed_forward + self.norms

    @property
    def nonembedding(self) -> int:
        """N of Kaplan et al. 2020: without token embedding and without output head."""
        return self.blocks

    @property
    def total(self) -> int:
        """Every stored parameter, a shared embedding once."""
        return self.embedding + self.head + self.blocks


def parameters(net: NetSpec) -> ParameterCount:
    """Count the parameters of a net, part by part.

    Raises ValueError for a family or an option that this file does not know how to count.
    """
    _refuse_unknown(net)
    head_dims = 2 * net.num_heads + 2 * net.num_kv_heads  # query and output; key and value
    return ParameterCount(
        embedding=net.vocab_size * net.dim,
        head=0 if net.tied_head else net.vocab_size * net.dim,
        attention=net.num_layers * net.dim * net.head_dim * head_dims,
        feed_forward=net.num_layers * 3 * net.dim * net.ffn_dim,
        norms=(2 * net.num_layers + 1) * net.dim,
    )


def forward_flops_per_token(net: NetSpec, convention: Convention, context: int | None = None) -> float:
    """FLOPs of one forward pass per token, averaged over the positions of a sequence.

    Args:
        net: the net.
        convention: how to count. "+recompute" costs nothing here: it is paid in training.
        context: tokens per sequence; the net's own context when left out.

    Raises ValueError for an unknown convention, family or option, or a context below 1.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown FLOP convention {convention!r}; known: {', '.join(CONVENTIONS)}")
    count = parameters(net)
    if convention == "6N-nonembedding":
        return 2.0 * count.nonembedding
    if convention == "6N-all":
        return 2.0 * count.total
    head = 2.0 * net.vocab_size * net.dim
    return _blocks_forward(net, convention, context) + head


def train_flops_per_token(net: NetSpec, convention: Convention, context: int | None = None) -> float:
    """FLOPs of forward and backward pass (and of recomputation, if named) per training token.

    Arguments and errors as in `forward_flops_per_token`.
    """
    flops = 3.0 * forward_flops_per_token(net, convention, context)
    if convention.endswith(RECOMPUTE):
        flops += _blocks_forward(net, convention, context)
    return flops


def train_flops(net: NetSpec, tokens: float, convention: Convention, context: int | None = None) -> FlopCount:
    """Training FLOPs for so many tokens, with the convention that counted them.

    Raises ValueError for a negative number of tokens, and as `forward_flops_per_token` does.
    """
    if not tokens >= 0:
        raise ValueError(f"cannot count the FLOPs of {tokens!r} tokens; it takes 0 or more")
    return FlopCount(flops=train_flops_per_token(net, convention, context) * tokens, convention=convention)


def effective_parameters(net: NetSpec, convention: Convention, context: int | None = None) -> float:
    """The N for which C = 6 N D holds exactly under this convention: training FLOPs per token / 6.

    This is the size that belongs on the axis of an isoFLOP curve whose budgets are counted this way.
    DeepSeek-AI 2024, section 3.2, argues for FLOPs per token in place of a parameter count; their M leaves
    the head out, which this does not.
    """
    return train_flops_per_token(net, convention, context) / 6.0


def every_convention(net: NetSpec, context: int | None = None) -> dict[Convention, float]:
    """Training FLOPs per token of the same net under each convention."""
    return {convention: train_flops_per_token(net, convention, context) for convention in CONVENTIONS}


def _blocks_forward(net: NetSpec, convention: Convention, context: int | None) -> float:
    """Matrix products of all blocks in one forward pass, FLOPs per token."""
    length = net.context if context is None else context
    if length < 1:
        raise ValueError(f"cannot count the FLOPs of a context of {length} tokens; it takes 1 or more")
    causal = convention.removesuffix(RECOMPUTE) == "matmul-causal"
    keys_per_query = (length + 1) / 2 if causal else float(length)
    count = parameters(net)
    weights = 2.0 * (count.attention + count.feed_forward)
    # Scores q.k and the weighted sum over v: one multiply-add each per query head, head dimension and key.
    # Grouped-query attention shares keys among query heads; the products remain.
    scores = 2 * 2.0 * net.num_layers * net.num_heads * net.head_dim * keys_per_query
    return weights + scores


def _refuse_unknown(net: NetSpec) -> None:
    if net.family != "decoder":
        raise ValueError(f"cannot count a net of family {net.family!r}; known: decoder")
    if net.options:
        names = ", ".join(sorted(net.options))
        raise ValueError(f"cannot count a decoder with the options {names}; a decoder takes none")
