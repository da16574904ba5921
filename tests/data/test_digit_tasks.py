"""The made text: right answers, equal lines, nothing held out that was trained on, whole lines in every window."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from isoflop.data import digit_tasks, open_corpus, prepare, validation_windows
from isoflop.data.corpus import Corpus
from isoflop.data.digit_tasks import LINE_TOKENS, NUM_HELD_OUT, NUM_TRAIN, TASKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(digit_tasks.NAME, "bytes", cache_dir=tmp_path_factory.mktemp("cache"))


def lines_of(tokens: np.ndarray) -> list[str]:
    return bytes(np.asarray(tokens, dtype=np.uint8)).decode().rstrip("\0").splitlines(keepends=True)


def test_answers_by_hand() -> None:
    digits = [4, 8, 1, 5, 2, 6]
    found = {task: "".join(map(str, digit_tasks.answer(task, digits))) for task in TASKS}
    assert found == {"c": "481526", "r": "625184", "s": "124568", "a": "423806"}
    assert digit_tasks.line("r", "481526") == "r481526=625184\n"
    with pytest.raises(KeyError):
        digit_tasks.answer("x", digits)


def test_problems_are_the_same_in_every_process_and_never_repeat() -> None:
    first = list(itertools.islice(digit_tasks.problems(), 3000))
    assert len(set(first)) == 3000
    # Pins the hash: another machine or release must draw the same text, or runs lose their identity.
    assert first[:3] == [("a", "143581"), ("r", "687527"), ("r", "250335")]
    shares = [sum(task == name for task, _ in first) / 3000 for name in TASKS]
    assert shares == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / 3000) ** 0.5)  # four standard errors


def test_no_problem_is_in_both_parts_and_every_line_is_whole(made: Corpus) -> None:
    train, held_out = lines_of(made.train), lines_of(made.val)
    assert (len(train), len(held_out)) == (NUM_TRAIN, NUM_HELD_OUT)
    assert {len(line) for line in train + held_out} == {LINE_TOKENS}
    assert not set(train) & set(held_out)
    for line in held_out[:200]:
        assert line == digit_tasks.line(line[0], line[1:7])


def test_windows_of_whole_lines_start_at_a_line(made: Corpus) -> None:
    windows = validation_windows(made, 2 * LINE_TOKENS, 500)
    firsts = windows.tokens[:, :-1].reshape(-1, LINE_TOKENS)[:, 0]
    assert {chr(first) for first in firsts} == set(TASKS)


def test_a_run_finds_the_text_again_by_its_hash(made: Corpus, tmp_path: Path) -> None:
    assert made.record.source == digit_tasks.NAME
    again = open_corpus(made.data_source(), cache_dir=tmp_path)  # another machine: it is made anew
    assert again.record.corpus_sha256 == made.record.corpus_sha256
    np.testing.assert_array_equal(again.val, made.val)


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    own = digit_tasks.write(tmp_path)
    whole = (own / "validation.txt").read_bytes()
    (own / "validation.txt").write_bytes(whole[:100])
    assert (digit_tasks.write(tmp_path) / "validation.txt").read_bytes() == whole
