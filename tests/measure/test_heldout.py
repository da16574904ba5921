"""Scores: the loss that the windows have, its error, and a finished run scored again from its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from isoflop.data import Corpus, ValidationWindows, validation_windows
from isoflop.measure import measure_run
from isoflop.measure.groups import from_groups
from isoflop.measure.heldout import FORWARD_TOKENS, score
from isoflop.model.build import build_net
from isoflop.records import RunSpec
from isoflop.store import RunFolder, StoreError
from isoflop.train.build import build_job
from isoflop.train.run import train_run


class Uniform(torch.nn.Module):
    """Every token costs ln 8 nats, whatever the text; the first token of a window decides about more."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def next_token_loss(self, tokens: torch.Tensor) -> torch.Tensor:
        return math.log(8) + tokens[:, 0].double().mean()


def windows(first: list[int], context: int = 4) -> ValidationWindows:
    tokens = np.zeros((len(first), context + 1), dtype=np.int64)
    tokens[:, 0] = first
    return ValidationWindows(tokens=tokens, num_bytes=np.full(len(first), 10, dtype=np.int64))


def test_bits_per_byte_and_interval(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec()
    measured = score(Uniform(), windows([0] * 8 + [1] * 8), spec, 20)
    assert spec.evaluate is not None
    assert spec.evaluate.num_groups == 8
    assert measured.loss.value == pytest.approx(math.log(8) + 0.5, rel=1e-12)
    assert measured.group_nats == pytest.approx([math.log(8)] * 4 + [math.log(8) + 1] * 4, rel=1e-12)
    assert measured.group_tokens == (8,) * 8
    assert measured.num_bytes == 160
    # Eight group means, half 0 and half 1: s.d. sqrt(2/7), s.e. by 1/sqrt(8); t(0.975, 7) = 2.364624.
    half = 2.364624 * math.sqrt(2 / 7) / math.sqrt(8)
    assert measured.loss.hi == pytest.approx(math.log(8) + 0.5 + half, rel=1e-6)
    bits = (math.log(8) + 0.5) / math.log(2) * 64 / 160
    assert measured.bits_per_byte.value == pytest.approx(bits, rel=1e-12)
    assert measured.bits_per_byte.lo == pytest.approx(bits * (1 - half / (math.log(8) + 0.5)), rel=1e-6)


def test_unequal_groups_are_weighted(make_spec: Callable[..., RunSpec]) -> None:
    measured = from_groups(make_spec(), 1, np.array([1.0, 3.0]), np.array([30, 10]), 100, held_fixed="a test")
    assert measured.loss.value == 1.5


def test_one_group_has_no_interval(make_spec: Callable[..., RunSpec]) -> None:
    measured = from_groups(make_spec(), 1, np.array([1.0]), np.array([30]), 100, held_fixed="a test")
    assert measured.loss.value == 1.0
    assert measured.loss.hi is None
    assert measured.loss.reason == "one group of windows shows no spread"


def test_a_loss_that_is_not_finite_has_a_reason(make_spec: Callable[..., RunSpec]) -> None:
    measured = from_groups(
        make_spec(), 1, np.array([1.0, math.nan]), np.array([30, 30]), 100, held_fixed="a test"
    )
    assert measured.loss.value is None
    assert measured.loss.reason == "the loss is not finite"


def test_a_real_net_is_scored_as_it_trains(make_spec: Callable[..., RunSpec], corpus: Corpus) -> None:
    """The mean over groups is the plain cross-entropy of all predicted tokens."""
    spec = make_spec()
    net = build_net(spec.net, torch.Generator().manual_seed(0))
    held_out = validation_windows(corpus, spec.data.context, 16)
    measured = score(net, held_out, spec, 0)
    tokens = torch.from_numpy(held_out.tokens)
    logits = net(tokens[:, :-1]).double()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert measured.loss.value == pytest.approx(expected.item(), rel=1e-6)  # fp32 losses of order 5
    assert net.training


def test_a_large_group_is_scored_in_parts(make_spec: Callable[..., RunSpec]) -> None:
    """Of three windows two fit in a pass; the mean is over windows, not over passes."""

    class Counting(Uniform):
        def next_token_loss(self, tokens: torch.Tensor) -> torch.Tensor:
            passes.append(tokens[:, 1:].numel())
            return super().next_token_loss(tokens)

    passes: list[int] = []
    first = [0, 0, 3] * 8
    measured = score(Counting(), windows(first, context=FORWARD_TOKENS // 2), make_spec(), 20)
    assert passes == [FORWARD_TOKENS, FORWARD_TOKENS // 2] * 8
    assert measured.group_nats == pytest.approx([math.log(8) + 1] * 8, rel=1e-12)
    passes.clear()
    score(Counting(), windows(first, context=FORWARD_TOKENS * 2), make_spec(), 20)
    assert passes == [FORWARD_TOKENS * 2] * 24  # a window is never cut


def test_a_run_in_bf16_is_scored_in_bf16(
    make_spec: Callable[..., RunSpec], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision in ("fp32", "bf16"):
        job = build_job(make_spec(precision=precision), [corpus])
        seen = []

        def loss(tokens: torch.Tensor, seen: list[bool] = seen) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return torch.zeros(())

        monkeypatch.setattr(job.net, "next_token_loss", loss)
        job.scores(1)
        assert set(seen) == {precision == "bf16"}
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("use_cache")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_finished_run_is_scored_again_from_its_weights(
    make_spec: Callable[..., RunSpec], corpus: Corpus, tmp_path: Path, precision: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    train_run(make_spec(precision=precision), folder, corpora=[corpus])
    (before,) = folder.read_measurements()
    folder.measurements_path.unlink()
    assert measure_run(folder) == before
    assert folder.read_measurements() == [before]


def test_what_cannot_be_scored_says_why(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    silent = RunFolder(tmp_path / "silent")
    silent.create(msgspec.structs.replace(make_spec(), evaluate=None))
    with pytest.raises(StoreError, match="names no score"):
        measure_run(silent)
    bare = RunFolder(tmp_path / "bare")
    bare.create(make_spec())
    with pytest.raises(StoreError, match="no final weights"):
        measure_run(bare)
