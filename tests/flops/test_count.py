"""Parameter and FLOP counts against numbers worked out by hand, and the relations that must hold."""

import doctest
from typing import get_args

import msgspec
import pytest

from isoflop.flops import count
from isoflop.flops.count import CONVENTIONS, every_convention, parameters, train_flops, train_flops_per_token
from isoflop.records import Convention, NetSpec

SMALL = NetSpec(
    vocab_size=10, context=5, dim=4, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=2, ffn_dim=7
)
LLAMA_31_8B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_dim=14_336,
    rope_theta=500_000.0,
)
LLAMA_32_1B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=2048,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    ffn_dim=8192,
    tied_head=True,
)


def test_parameters_by_hand():
    found = parameters(SMALL)
    # q 4x4, k 4x2, v 4x2, o 4x4 = 48 a block; gate, up, down 3 x 4x7 = 84; two norms of 4, and a last one.
    assert (found.embedding, found.head) == (40, 40)
    assert (found.attention, found.feed_forward, found.norms) == (3 * 48, 3 * 84, 7 * 4)
    assert found.blocks == found.nonembedding == 424
    assert found.total == 504


@pytest.mark.parametrize(("net", "total"), [(LLAMA_31_8B, 8_030_261_248), (LLAMA_32_1B, 1_235_814_400)])
def test_parameters_of_released_models(net, total):
    """The totals that the released checkpoints of these two models hold."""
    assert parameters(net).total == total


def test_flops_by_hand():
    # Forward, per token: weights 2 x 3 x (48 + 84) = 792, head 2 x 10 x 4 = 80; scores and their use
    # 2 x 2 x 3 layers x 2 heads x 2 dims = 48 per key: 5 keys in full, 3 on average when causal.
    assert every_convention(SMALL) == {
        "6N-nonembedding": 6 * 424,
        "6N-all": 6 * 504,
        "matmul-causal": 3 * (792 + 80 + 48 * 3),
        "matmul-full": 3 * (792 + 80 + 48 * 5),
        "matmul-causal+recompute": 3 * (792 + 80 + 48 * 3) + 792 + 48 * 3,
        "matmul-full+recompute": 3 * (792 + 80 + 48 * 5) + 792 + 48 * 5,
    }


def test_full_equals_a_walk_over_every_product():
    """Sum 2 m k n over the products of a whole sequence, shape by shape."""
    net, length = SMALL, 5
    width = net.num_heads * net.head_dim
    kv_width = net.num_kv_heads * net.head_dim
    block = [
        (length, net.dim, width),
        (length, net.dim, kv_width),
        (length, net.dim, kv_width),
        *[(length, net.head_dim, length)] * net.num_heads,
        *[(length, length, net.head_dim)] * net.num_heads,
        (length, width, net.dim),
        *[(length, net.dim, net.ffn_dim)] * 2,
        (length, net.ffn_dim, net.dim),
    ]
    products = block * net.num_layers + [(length, net.dim, net.vocab_size)]
    forward = sum(2 * m * k * n for m, k, n in products)
    assert count.forward_flops_per_token(net, "matmul-full") * length == forward
    assert train_flops(net, length, "matmul-full").flops == 3 * forward


def test_causal_is_the_mean_over_positions():
    """Position p sees p + 1 keys: the mean over a sequence is what the convention charges."""
    per_key = 3 * 2 * 2 * SMALL.num_layers * SMALL.num_heads * SMALL.head_dim
    without_scores = train_flops_per_token(SMALL, "matmul-full") - per_key * SMALL.context
    by_position = [without_scores + per_key * (p + 1) for p in range(SMALL.context)]
    assert sum(by_position) / len(by_position) == train_flops_per_token(SMALL, "matmul-causal")


def test_one_token_of_context_is_causal_and_full_at_once():
    full = train_flops_per_token(SMALL, "matmul-full", context=1)
    assert full == train_flops_per_token(SMALL, "matmul-causal", context=1)


def test_a_tied_head_is_stored_once_and_multiplied_all_the_same():
    tied = msgspec.structs.replace(SMALL, tied_head=True)
    assert parameters(SMALL).total - parameters(tied).total == 40
    assert train_flops_per_token(tied, "matmul-full") == train_flops_per_token(SMALL, "matmul-full")


def test_grouped_queries_save_weights_but_no_scores():
    grouped = train_flops_per_token(SMALL, "matmul-full", context=100)
    plain = train_flops_per_token(msgspec.structs.replace(SMALL, num_kv_heads=2), "matmul-full", context=100)
    assert plain - grouped == 6 * SMALL.num_layers * 2 * SMALL.dim * SMALL.head_dim


def test_effective_parameters_close_the_circle():
    for convention in CONVENTIONS:
        n = count.effective_parameters(SMALL, convention)
        assert 6 * n * 1000 == pytest.approx(train_flops(SMALL, 1000, convention).flops, rel=1e-15)
    assert count.effective_parameters(SMALL, "6N-all") == parameters(SMALL).total


def test_every_convention_is_counted_and_travels_with_its_count():
    assert tuple(every_convention(SMALL)) == CONVENTIONS == get_args(Convention)
    for convention in CONVENTIONS:
        assert train_flops(SMALL, 1, convention).convention == convention


def test_the_example_in_the_docstring():
    assert doctest.testmod(count).failed == 0


@pytest.mark.parametrize(
    ("change", "context", "convention", "words"),
    [
        ({"family": "tree"}, None, "6N-all", "family 'tree'"),
        ({"options": {"window": 3}}, None, "6N-all", "window"),
        ({}, 0, "matmul-full", "context of 0"),
        ({}, None, "8N", "'8N'"),
    ],
)
def test_what_cannot_be_counted_is_refused(change, context, convention, words):
    with pytest.raises(ValueError, match=words):
        train_flops_per_token(msgspec.structs.replace(SMALL, **change), convention, context)


def test_negative_tokens_are_refused():
    with pytest.raises(ValueError, match="-1"):
        train_flops(SMALL, -1, "6N-all")
