"""One process, eight ranks as HSDP x TP (compiled, all recomputed) and four ranks of FSDP are the same run.

Whole runs, as a launcher starts them: losses of fifty updates, gradients of the first, states that go on on
eight, two and one, and the samples that every rank has read. Single arrangements, and what they are made of,
are compared in tests/dist.

Tolerances: fp32 losses of about 5 are sums in another order, some 1e-6 after one update; fifty updates of AdamW
multiply that by a small number, and 1e-4 is the promise, 1e-5 over the twenty behind a state. Gradients are
compared by the norm of their difference, where rounding is a few times 2^-24 = 6e-8; 1e-5 is the promise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.data import Corpus, TrainingWindows
from isoflop.dist import checkpoint
from isoflop.model.build import build_net
from isoflop.records import NetSpec, OptimizerSpec, RunSpec, ScheduleSpec
from isoflop.store import RunFolder
from isoflop.train.run import train_run
from tests.dist.ranks import run_ranks
from tests.train import distributed_sessions as sessions
from tests.train.distributed_sessions import RESUME_AT

LOSSES, GRADIENTS, RESUMED = 1e-4, 1e-5, 1e-5
STEPS, BATCH = 50, 8
NET = NetSpec(
    vocab_size=256, context=16, dim=24, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=8, ffn_dim=68
)
ON_TWO = {"on 2": "1x2x1", "on 2 split": "1x1x2"}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("use_cache")]


@dataclass(frozen=True)
class Matrix:
    """Folders of all runs below `root`, and what each rank of each session saw."""

    spec: RunSpec
    root: Path
    eight: list[Any]
    four: list[Any]
    two: list[Any]
    one: dict[str, Any]

    def losses(self, name: str) -> np.ndarray:
        rows = RunFolder(self.root / name).read_metrics()
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), name
        return np.array([row["loss_nats"] for row in rows])


@pytest.fixture
def matrix(make_spec: Callable[..., RunSpec], corpus: Corpus, tmp_path: Path) -> Matrix:
    """Every run of the comparison."""
    spec = make_spec(
        num_steps=STEPS,
        net=NET,
        batch_seqs=BATCH,
        optimizer=OptimizerSpec(peak_lr=3e-3),
        schedule=ScheduleSpec(kind="constant", warmup_steps=0, num_steps=STEPS),
    )
    root = tmp_path / "runs"
    train_run(spec, RunFolder(root / "1x1x1"), corpora=[corpus])
    copies = ("on 8", *ON_TWO, "on 1")
    eight = run_ranks(sessions.eight_ranks, 8, tmp_path / "eight", spec, root, copies)
    four = run_ranks(sessions.four_ranks, 4, tmp_path / "four", spec, root)
    two = run_ranks(sessions.resume, 2, tmp_path / "two", spec, root, ON_TWO)
    one = sessions.resume(spec, root, {"on 1": "1x1x1"})
    return Matrix(spec, root, eight, four, two, one)


def test_the_same_run_on_one_four_and_eight_ranks(matrix: Matrix, corpus: Corpus) -> None:
    """One test, so that the runs are made once."""
    same_losses(matrix)
    same_gradients(matrix, corpus)
    goes_on(matrix)
    same_samples(matrix)


def same_losses(matrix: Matrix) -> None:
    expected = matrix.losses("1x1x1")
    assert expected[-5:].mean() < expected[0] - 1  # something was learnt
    for text in ("2x2x2", "1x4x1"):
        assert np.abs(matrix.losses(text) - expected).max() < LOSSES, text
        ours, theirs = final_score(matrix, text), final_score(matrix, "1x1x1")
        assert abs(ours - theirs) < LOSSES, text


def same_gradients(matrix: Matrix, corpus: Corpus) -> None:
    """Of the first update, against a plain net in this process, whose blocks are neither split nor compiled."""
    net = build_net(matrix.spec.net, torch.Generator().manual_seed(matrix.spec.seed))
    rows = TrainingWindows(matrix.spec.data, [corpus]).batch(0, BATCH)
    net.next_token_loss(torch.from_numpy(rows)).backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    for rank in (*matrix.eight, *matrix.four):
        assert set(rank["gradients"]) == set(expected)
        for name, gradient in rank["gradients"].items():
            assert float(gradient.norm()) > 0, name
            off = float((gradient - expected[name]).norm() / expected[name].norm())
            assert off < GRADIENTS, (name, off)


def goes_on(matrix: Matrix) -> None:
    """From the state of eight ranks after thirty updates: on eight to the bit, on two and on one within 1e-5."""
    whole = matrix.losses("2x2x2")
    assert len(whole[RESUME_AT:]) == 20
    assert (matrix.losses("on 8") == whole).all()
    assert final_score(matrix, "on 8") == final_score(matrix, "2x2x2")
    ours, theirs = (
        checkpoint.read_folder(matrix.root / name / "checkpoint" / "final")[0][checkpoint.MODEL]
        for name in ("on 8", "2x2x2")
    )
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in (*ON_TWO, "on 1"):
        losses = matrix.losses(name)
        assert (losses[:RESUME_AT] == whole[:RESUME_AT]).all()  # rows of before stay
        assert np.abs(losses - whole).max() < RESUMED, name
        assert not (losses == whole).all(), name  # it was computed anew, and in another order


def same_samples(matrix: Matrix) -> None:
    """Every sample once over the data ranks, in the same step as ever; the same ones within a tensor group."""
    whole, rest = range(STEPS * BATCH), range(RESUME_AT * BATCH, STEPS * BATCH)
    assert_dealt([rank["samples"] for rank in matrix.eight], tensor=2, wanted=whole)
    assert_dealt([rank["samples"] for rank in matrix.four], tensor=1, wanted=whole)
    assert_dealt([rank["resumed samples"] for rank in matrix.eight], tensor=2, wanted=rest)
    assert_dealt([rank["on 2"] for rank in matrix.two], tensor=1, wanted=rest)
    assert_dealt([rank["on 2 split"] for rank in matrix.two], tensor=2, wanted=rest)
    assert_dealt([matrix.one["on 1"]], tensor=1, wanted=rest)


def assert_dealt(ranks: list[np.ndarray], tensor: int, wanted: range) -> None:
    for group in range(0, len(ranks), tensor):
        for other in ranks[group + 1 : group + tensor]:
            assert other.tolist() == ranks[group].tolist()
    num_steps = len(wanted) // BATCH
    by_step = [part.reshape(num_steps, -1) for part in ranks[::tensor]]  # [steps, this rank's samples]
    assert np.concatenate(by_step, axis=1).ravel().tolist() == list(wanted)


def final_score(matrix: Matrix, name: str) -> float:
    loss = RunFolder(matrix.root / name).read_measurements()[-1].loss.value
    assert loss is not None
    return loss
