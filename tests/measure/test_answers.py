"""Answers: a net that knows some tokens gets exactly the scores that it deserves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from isoflop.data import ValidationWindows
from isoflop.data.digit_tasks import FIRST_ANSWER_TOKEN, LINE_TOKENS, NUM_DIGITS, TASKS, line
from isoflop.measure.answers import score, share
from isoflop.records import RunSpec

SURE = 0.9


class Knower(torch.nn.Module):
    """Gives `SURE` to the right next token at the places of a line that it knows, else to a wrong one."""

    def __init__(self, text: str, known: dict[str, set[int]]) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.text, self.known = text, known

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.full((*tokens.shape, 256), (1 - SURE) / 255).log()
        length = tokens.shape[1]
        for row in range(tokens.shape[0]):
            at = self.text.index(bytes(tokens[row].tolist()).decode())
            for place in range(length):
                token = at + place + 1
                task = self.text[token - token % LINE_TOKENS] if token < len(self.text) else ""
                digit = token % LINE_TOKENS - FIRST_ANSWER_TOKEN
                right = ord(self.text[token]) if token < len(self.text) else 0
                guess = right if digit in self.known.get(task, set()) else (right + 1) % 256
                logits[row, place, guess] = math.log(SURE)
        return logits


def made(num: int) -> tuple[str, ValidationWindows]:
    lines = [line(task, f"{137 * n + k:06d}") for n in range(num) for k, task in enumerate(TASKS)]
    text = "".join(lines)
    tokens = np.frombuffer((text + "c").encode(), dtype=np.uint8).astype(np.int64)
    context = 4 * LINE_TOKENS
    rows = np.stack([tokens[i * context : (i + 1) * context + 1] for i in range(num)])
    return text, ValidationWindows(tokens=rows, num_bytes=np.full(num, context))


def test_scores_by_task_and_place(make_spec: Callable[..., RunSpec]) -> None:
    text, windows = made(8)
    every = set(range(NUM_DIGITS))
    net = Knower(text, {"c": every, "r": every - {5}, "s": {1, 2}})
    measured = score(net, windows, make_spec(), 20)
    value = {name: estimate.value for name, estimate in measured.scores.items()}
    assert [value[f"copy/exact/{k}"] for k in (1, 6)] == [1.0, 1.0]
    assert [value[f"reverse/exact/{k}"] for k in (1, 5, 6)] == [1.0, 1.0, 0.0]
    assert [value[f"sort/exact/{k}"] for k in (1, 2, 6)] == [0.0, 0.0, 0.0]
    assert [value[f"sort/right/{j}"] for j in range(1, 7)] == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    wrong = -math.log((1 - SURE) / 255)
    # Single precision inside the net: 1e-6 relative.
    assert value["copy/nats/1"] == pytest.approx(-math.log(SURE), rel=1e-4)
    assert value["running sum/nats/1"] == pytest.approx(wrong, rel=1e-5)
    # 13 of 24 answer tokens of each window of four problems are known.
    assert measured.loss.value == pytest.approx((13 * -math.log(SURE) + 11 * wrong) / 24, rel=1e-4)
    assert measured.name == "answers"
    assert measured.num_bytes == 8 * 4 * NUM_DIGITS


def test_windows_that_cut_lines_are_refused(make_spec: Callable[..., RunSpec]) -> None:
    _, windows = made(2)
    cut = ValidationWindows(tokens=windows.tokens[:, :-3], num_bytes=windows.num_bytes)
    with pytest.raises(ValueError, match="do not hold whole lines of 15"):
        score(Knower("", {}), cut, make_spec(), 1)


def test_share_has_wilsons_interval() -> None:
    # Brown, Cai and DasGupta 2001, eq. 4 by hand for 1 of 10 at z = 1.959964.
    found = share(1, 10)
    assert (found.lo, found.hi) == pytest.approx((0.017876, 0.404150), abs=2e-6)
    assert share(0, 10).lo == 0.0
    assert share(10, 10).hi == 1.0
    assert share(0, 0).value is None
    assert share(0, 0).reason
