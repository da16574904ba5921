"""One process and every mesh train the same: losses over fifty updates, and each gradient of the first.

Tolerances: fp32 losses of about 4 are sums in another order, some 1e-6 after one update; fifty updates of
AdamW multiply that by a small number, and 1e-4 is the promise. Gradients are compared by the norm of their
difference, where rounding is a few times 2^-24 = 6e-8; 1e-5 is the promise. Eight ranks are compared with whole
runs, in tests/train/test_distributed_parity.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributed.tensor import DTensor

from isoflop.dist import mesh, parallel
from isoflop.dist.optim import ShardedAdamW
from isoflop.dist.parallel import Wrapping
from isoflop.model.build import build_net
from isoflop.model.decoder import Block, Decoder
from isoflop.model.sharding import sharding_plan
from isoflop.records import MeshSpec
from isoflop.train.optim import AdamW
from tests.dist import runs, sessions
from tests.dist.conftest import Session

LOSSES, GRADIENTS, RESUMED = 1e-4, 1e-5, 1e-5


def assert_same_run(run: runs.Run, reference: runs.Run) -> None:
    cut = runs.Run(reference.losses[: len(run.losses)], reference.norms, reference.gradients)
    assert runs.largest_difference(run, cut) < LOSSES
    differences = runs.gradient_differences(run, reference)
    assert set(run.gradients) == set(reference.gradients)
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < GRADIENTS, worst
    assert all(float(gradient.norm()) > 0 for gradient in run.gradients.values())


# ------------------------------------------------------------------------------------ one device


def test_nothing_is_wrapped_on_one_device() -> None:
    """Same class, same methods, and bit-identical losses, norms and weights as the net by itself."""
    plain = build_net(runs.NET, torch.Generator().manual_seed(0))
    world, spread, _ = runs.build(MeshSpec(), Wrapping())
    assert type(spread.net) is Decoder
    assert not spread.net.call_blocks
    assert spread.averager is None
    assert spread.autocast is None
    for block in spread.net.model.layers:
        assert type(block) is Block
        assert "forward" not in vars(block)
    assert "next_token_loss" not in vars(spread.net)
    assert not any(isinstance(p, DTensor) for p in spread.net.parameters())
    optimizers = (AdamW(plain, runs.OPTIMIZER), AdamW(spread.net, runs.OPTIMIZER))
    for step in range(5):
        losses = []
        for net, optimizer in zip((plain, spread.net), optimizers, strict=True):
            loss = net.next_token_loss(runs.tokens_of(step)[world.rows(runs.BATCH_SEQS)])
            loss.backward()
            optimizer.update(1.0)
            losses.append(loss.detach())
        assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), spread.net.parameters(), strict=True))


def test_the_sharded_optimizer_updates_as_the_other() -> None:
    """Same kernel, the norm summed in another order: weights differ by rounding of about 1e-7 per update."""
    run = runs.train(*runs.build(MeshSpec(), Wrapping()), 0, 20)
    reference = runs.reference(20)
    assert runs.largest_difference(run, reference) < 1e-5
    assert max(abs(a - b) / b for a, b in zip(run.norms, reference.norms, strict=True)) < 1e-4


def test_weight_decay_on_matrices_spares_the_norms() -> None:
    for decay_on, spared in (("matrices", True), ("all", False)):
        net = build_net(runs.NET, torch.Generator().manual_seed(0))
        spec = runs.OPTIMIZER.__class__(peak_lr=0.1, weight_decay=0.5, decay_on=decay_on)
        optimizer = ShardedAdamW(net, spec, mesh.join(MeshSpec()))
        optimizer.update(1.0)  # no gradients: decay alone, by 1 - 0.1 * 0.5
        norm = net.model.norm.weight
        assert torch.allclose(norm, torch.tensor(1.0 if spared else 0.95), rtol=1e-6)


def test_recomputing_changes_no_bit() -> None:
    """The same operations in the same order, once more."""
    base = Wrapping(compile=False)
    wrappings = (base, Wrapping(recompute="full"), Wrapping(recompute="selective"))
    built = [runs.build(MeshSpec(), wrapping) for wrapping in wrappings]
    for _, spread, _ in built:
        spread.net.call_blocks = True  # all by the plain functions
    kept, *again = (runs.train(*one, 0, 3) for one in built)
    for run in again:
        assert run.losses == kept.losses
        assert all(torch.equal(run.gradients[name], kept.gradients[name]) for name in kept.gradients)


def test_recomputing_keeps_less() -> None:
    """Bytes that wait for the backward pass: a block's input alone, the costly results too, everything."""

    def held(wrapping: Wrapping) -> int:
        _, spread, _ = runs.build(MeshSpec(), wrapping)
        spread.net.call_blocks = True
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            spread.net.next_token_loss(runs.tokens_of(0))
        return sum(storages.values())

    assert held(Wrapping(recompute="full")) < 0.6 * held(Wrapping())


def test_a_gradient_that_was_lost_is_noticed() -> None:
    net = build_net(runs.NET, torch.Generator().manual_seed(0))
    world = mesh.join(MeshSpec())
    net.next_token_loss(runs.tokens_of(0)).backward()
    parallel.require_gradients(net, world)
    embedding = net.model.embed_tokens.weight
    for lost in (torch.zeros_like(embedding), None):
        embedding.grad = lost
        with pytest.raises(RuntimeError, match=r"'model\.embed_tokens\.weight' is zero on every rank"):
            parallel.require_gradients(net, world)


def test_what_the_compiler_cannot_do_is_refused() -> None:
    split = mesh.World(MeshSpec(tensor=2), 0, torch.device("cpu"), None, None)
    net = build_net(runs.NET, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="take recompute full or none"):
        parallel.spread(net, sharding_plan(runs.NET), split, Wrapping(compile=True, recompute="selective"))


# ---------------------------------------------------------------------------------- several ranks


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_two_ranks_train_as_one(two: Session, reference: runs.Run, text: str) -> None:
    for seen in two.seen:
        assert_same_run(seen.runs[text], reference)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["1x4x1", "2x2x1", "2x1x2", "1x1x4", "1x2x2 saved"])
def test_four_ranks_train_as_one(four: Session, reference: runs.Run, text: str) -> None:
    """FSDP with recomputation, HSDP without resharding, and tensor parallel under all of them."""
    for seen in four.seen:
        assert_same_run(seen.runs[text], reference)


@pytest.mark.slow
def test_sizes_that_do_not_divide_train_and_go_on(four: Session) -> None:
    """98 tokens and 66 features over 4 ranks; the last rank holds fewer rows."""
    run = four.seen[0].runs["1x4x1 uneven"]
    assert_same_run(run, runs.reference(sessions.RESUMED_TO, runs.UNEVEN))
    resumed = sessions.resume("1x1x1", Wrapping(), four.root / "uneven", runs.UNEVEN).losses
    whole = run.losses[sessions.SAVED :]
    assert max(abs(a - b) for a, b in zip(whole, resumed, strict=True)) < RESUMED


@pytest.mark.slow
def test_compiled_tensor_parallel_blocks_keep_every_gradient(two: Session, reference: runs.Run) -> None:
    """The embedding's among them: without the copy behind it, it is zero from PyTorch 2.12 on."""
    for seen in two.seen:
        assert_same_run(seen.runs["1x1x2 compiled"], reference)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_a_tied_head_trains_as_in_one_process(two: Session, text: str) -> None:
    assert_same_run(two.seen[0].runs[f"{text} tied"], runs.reference(5, sessions.TIED))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_micro_batches_add_up_to_the_batch(two: Session, reference: runs.Run, text: str) -> None:
    assert_same_run(two.seen[0].runs[f"{text} accumulate"], reference)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_bf16_follows_the_fp32_run(two: Session, reference: runs.Run, text: str) -> None:
    """Computed in bfloat16 (2^-9 = 2e-3 per rounding), kept in fp32: losses agree to 1 %, and are not equal."""
    run = two.seen[0].runs[f"{text} bf16"]
    assert 0 < max(abs(a / b - 1) for a, b in zip(run.losses, reference.losses, strict=False)) < 1e-2
    assert all(gradient.dtype == torch.float32 for gradient in run.gradients.values())
    differences = runs.gradient_differences(run, reference)
    assert max(differences.values()) < 0.1
    assert min(differences.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_scores_and_logits_are_whole_on_every_rank(two: Session, text: str) -> None:
    net = build_net(runs.NET, torch.Generator().manual_seed(0))
    tokens = runs.tokens_of(0)
    with torch.inference_mode():
        loss, logits = net.next_token_loss(tokens), net(tokens[:, :-1])
    for seen in two.seen:
        found = seen.values[f"{text} score"]
        assert found["logits"].shape == logits.shape
        # Logits are sums of 24 products of size 0.1: rounding is far below 1e-6.
        assert float((found["logits"] - logits).abs().max()) < 1e-6
        assert abs(float(found["loss"]) - float(loss)) < 1e-5


@pytest.mark.slow
def test_resuming_on_the_same_mesh_is_exact_to_the_bit(four: Session) -> None:
    for seen in four.seen:
        whole = seen.runs["1x2x2 saved"]
        for name in ("1x2x2 resumed", "1x2x2 beside"):
            assert seen.runs[name].losses == whole.losses[sessions.SAVED :]
            assert seen.runs[name].norms == whole.norms[sessions.SAVED :]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["2x1x1", "1x2x1", "1x1x2"])
def test_a_checkpoint_of_four_ranks_goes_on_with_two(four: Session, two: Session, text: str) -> None:
    whole = four.seen[0].runs["1x2x2 saved"].losses[sessions.SAVED :]
    resumed = two.seen[0].runs[f"{text} resumed"].losses
    assert max(abs(a - b) for a, b in zip(whole, resumed, strict=True)) < RESUMED


@pytest.mark.slow
def test_a_checkpoint_of_four_ranks_goes_on_with_one(four: Session) -> None:
    whole = four.seen[0].runs["1x2x2 saved"].losses[sessions.SAVED :]
    resumed = sessions.resume("1x1x1", Wrapping(), four.root).losses
    assert max(abs(a - b) for a, b in zip(whole, resumed, strict=True)) < RESUMED


def test_differences_are_seen() -> None:
    """The comparison itself: a gradient that is off, zero or missing is found."""
    base = runs.Run([1.0], [1.0], {"a": torch.ones(3), "b": torch.ones(2)})
    off = runs.Run([1.0], [1.0], {"a": torch.ones(3) * 1.1})
    found = runs.gradient_differences(off, base)
    assert abs(found["a"] - 0.1) < 1e-6
    assert math.isinf(found["b"])


def test_a_family_without_a_plan_is_refused() -> None:
    from isoflop.records import NetSpec

    spec = NetSpec(**{**{f: getattr(runs.NET, f) for f in runs.NET.__struct_fields__}, "family": "odd"})
    with pytest.raises(ValueError, match="no sharding plan"):
        sharding_plan(spec)


def test_weights_in_another_order_are_refused() -> None:
    net = build_net(runs.NET, torch.Generator().manual_seed(0))
    wrong = iter(reversed([(name, p.detach()) for name, p in net.named_parameters()]))
    with pytest.raises(ValueError, match="another order"):
        parallel.fill_whole(net, wrong)
