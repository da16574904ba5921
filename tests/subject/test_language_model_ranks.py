"""A net that is spread over ranks gives every rank the answers of the whole net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isoflop.dist import mesh
from isoflop.dist.parallel import Wrapping
from isoflop.records import MeshSpec
from tests.dist.ranks import run_ranks
from tests.dist.runs import build
from tests.subject import scored_on_ranks

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
"""Nats: split sums of fp32 differ by rounding, 1e-6 in a logit of size 1, over at most six tokens."""


def test_every_mesh_gives_the_answers_of_the_whole_net(tmp_path: Path) -> None:
    expected, texts = scored_on_ranks.alone()
    for seen in run_ranks(scored_on_ranks.on_ranks, 4, tmp_path):
        assert set(seen) == set(scored_on_ranks.MESHES)
        for name, (likelihoods, generated, trained) in seen.items():
            for one, other in zip(likelihoods, expected, strict=True):
                assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=TOLERANCE), name
                assert one.is_greedy == other.is_greedy, name
            assert generated == texts, name
            assert trained, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of PyTorch's compiler to itself
def test_a_compiled_net_is_asked_in_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are compiled for one shape; other shapes would compile them again, eight times at most."""
    expected, _ = scored_on_ranks.alone()
    world, spread, _ = build(MeshSpec(), Wrapping(compile=True))
    assert world == mesh.join(MeshSpec())
    shape = (scored_on_ranks.ROWS, scored_on_ranks.NET.context)
    asked = scored_on_ranks.model(spread.net, fixed_shape=shape)
    shapes = []
    spread.net.register_forward_pre_hook(lambda net, args: shapes.append(tuple(args[0].shape)))
    found = asked.log_likelihoods(scored_on_ranks.pairs())
    assert set(shapes) == {shape}
    for one, other in zip(found, expected, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=TOLERANCE)
    torch._dynamo.reset()
