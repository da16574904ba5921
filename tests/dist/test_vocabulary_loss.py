"""The loss in chunks is the loss; over split vocabularies it is tested with the runs of several ranks."""

from __future__ import annotations

import pytest
import torch

from isoflop.dist.parallel import Wrapping
from isoflop.dist.vocabulary_loss import cross_entropy
from isoflop.model import primitives
from isoflop.records import MeshSpec
from tests.dist import runs


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 5, generator=generator, dtype=dtype).requires_grad_()
    head = (3 * torch.randn(11, 5, generator=generator, dtype=dtype)).requires_grad_()
    return x, head, torch.randint(11, (3, 7), generator=generator)


def gradients(function: object, **options: int) -> tuple[torch.Tensor, ...]:
    x, head, targets = problem()
    loss = function(x, head, targets, **options)  # type: ignore[operator]
    (2.5 * loss).backward()
    return loss.detach(), x.grad, head.grad  # type: ignore[return-value]


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 21, 50])
def test_loss_and_gradients_are_those_of_the_plain_form(num_chunks: int) -> None:
    """Logits are compared in fp32 in both: some 1e-6 of losses and gradients of size 1."""
    for found, expected in zip(
        gradients(cross_entropy, num_chunks=num_chunks), gradients(primitives.cross_entropy), strict=True
    ):
        assert found.shape == expected.shape
        assert torch.allclose(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    x, head, targets = problem(torch.float32)
    loss = cross_entropy(1000 * x, head, targets, num_chunks=2)
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_without_gradients_it_gives_the_loss_alone() -> None:
    x, head, targets = problem(torch.float32)
    expected = primitives.cross_entropy(x, head, targets)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = cross_entropy(x, head, targets, num_chunks=3)
        assert not found.requires_grad
        assert abs(float(found) - float(expected.detach())) < 1e-5


def test_under_autocast_products_are_in_16_bits_and_gradients_in_the_weights_type() -> None:
    x, head, targets = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(x, head, targets, num_chunks=2)
    loss.backward()
    exact = primitives.cross_entropy(x, head, targets)
    # bfloat16 rounds products of size 3 to 2^-8 of them; the loss is a mean over 21 positions.
    assert 0 < abs(float(loss.detach()) - float(exact.detach())) < 0.1
    assert head.grad is not None
    assert head.grad.dtype == torch.float32


def test_a_run_with_chunks_is_the_same_run() -> None:
    run = runs.train(*runs.build(MeshSpec(), Wrapping(loss_chunks=5)), 0, 10)
    expected = runs.reference(10)
    assert runs.largest_difference(run, expected) < 1e-5
    assert max(runs.gradient_differences(run, expected).values()) < 1e-5
