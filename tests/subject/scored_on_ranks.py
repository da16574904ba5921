"""What a session of ranks does to score one net on several meshes. Every rank calls this alike."""

from __future__ import annotations

from typing import Any

import torch

from isoflop.data.tokenizer import bytes_tokenizer
from isoflop.dist.parallel import Wrapping
from isoflop.model.build import build_net
from isoflop.records import MeshSpec
from isoflop.subject.language_model import LanguageModel, Likelihood
from isoflop.subject.text import corpus_codec
from tests.dist.runs import NET, build, tokens_of

MESHES = {
    "4x1x1": Wrapping(),
    "1x4x1": Wrapping(),
    "2x2x1": Wrapping(recompute="full"),
    "1x2x2": Wrapping(),
    "1x1x4": Wrapping(loss_chunks=2),
}
ROWS = 3
"""Sequences of a batch; 11 inputs make batches that 4 ranks cannot share equally."""


def pairs() -> list[tuple[list[int], list[int]]]:
    """Contexts and continuations of several lengths, from the rows of a training batch."""
    asked = []
    for number, row in enumerate([*tokens_of(0).tolist(), *tokens_of(1).tolist()[:3]]):
        cut = 2 + number % 9
        asked.append((row[:cut], row[cut : cut + 1 + number % 6]))
    return asked


def model(net: torch.nn.Module, **options: Any) -> LanguageModel:
    text = corpus_codec(bytes_tokenizer())
    return LanguageModel(name="net", net=net, text=text, context=NET.context, **options)


def alone() -> tuple[list[Likelihood], list[str]]:
    whole = model(build_net(NET, torch.Generator().manual_seed(0)))
    return whole.log_likelihoods(pairs()), whole.generate([one[0] for one in pairs()], max_tokens=3)


def on_ranks() -> dict[str, tuple[list[Likelihood], list[str], bool]]:
    """Answers on each mesh, and whether a training step still works afterwards."""
    seen = {}
    for text, wrapping in MESHES.items():
        world, spread, _ = build(MeshSpec.parse(text), wrapping)
        asked = model(spread.net, world=world, fixed_shape=(ROWS, NET.context))
        likelihoods = asked.log_likelihoods(pairs())
        texts = asked.generate([one[0] for one in pairs()], max_tokens=3)
        rows = tokens_of(0)[world.rows(8)]
        spread.net.next_token_loss(rows).backward()  # type: ignore[operator]
        spread.finish_gradients()
        trained = all(parameter.grad is not None for parameter in spread.net.parameters())
        seen[text] = (likelihoods, texts, trained)
    return seen
