"""Text made by rule: four tasks on strings of digits, each with an answer of several tokens.

    c481526=481526    copy                     s481526=124568    sort
    r481526=625184    reverse                  a481526=423806    running sum modulo ten

One problem per line, all lines equally long, so that a window of whole lines starts at the start of a line.
No held-out problem occurs in the training part. The text depends on nothing but this file: problems are
drawn by a hash, because the streams of random generators may change between releases. Leaves out the scoring
of answers (`isoflop.measure.answers`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from isoflop.store import write_atomic

NAME = "digit-tasks"
"""As a corpus's source."""
VERSION = 1
NUM_DIGITS = 6
"""Of an operand, and of its answer: tokens of an answer, with the tokenizer "bytes"."""
LINE_TOKENS = 2 * NUM_DIGITS + 3
"""Task, operand, "=", answer, end of line."""
FIRST_ANSWER_TOKEN = NUM_DIGITS + 2
"""Place of the answer's first token in its line, from 0."""
TASKS = {"c": "copy", "r": "reverse", "s": "sort", "a": "running sum"}
"""First character of a line -> name of its task."""
NUM_TRAIN, NUM_HELD_OUT = 160_000, 4_100


def answer(task: str, digits: Sequence[int]) -> list[int]:
    """The digits of the right answer. Raises KeyError for a task that there is not."""
    if task == "c":
        return list(digits)
    if task == "r":
        return list(reversed(digits))
    if task == "s":
        return sorted(digits)
    if task == "a":
        return [total % 10 for total in itertools.accumulate(digits)]
    raise KeyError(task)


def problems() -> Iterator[tuple[str, str]]:
    """(task, operand) without end and without repeats, in a fixed order in which the tasks are mixed."""
    seen: set[tuple[str, str]] = set()
    names = tuple(TASKS)
    for number in itertools.count():
        digest = hashlib.blake2b(f"{NAME}/{VERSION} {number}".encode(), digest_size=8).digest()
        value = int.from_bytes(digest, "big")
        task = names[value % len(names)]
        operand = f"{value // len(names) % 10**NUM_DIGITS:0{NUM_DIGITS}d}"
        if (task, operand) not in seen:
            seen.add((task, operand))
            yield task, operand


def line(task: str, operand: str) -> str:
    """One problem with its answer, end of line included."""
    digits = answer(task, [int(digit) for digit in operand])
    return f"{task}{operand}={''.join(map(str, digits))}\n"


def write(folder: Path) -> Path:
    """Write train.txt and validation.txt below `folder`, unless they are there whole; returns their folder."""
    own = folder / f"{NAME}-{VERSION}"
    sizes = {"train.txt": NUM_TRAIN, "validation.txt": NUM_HELD_OUT}
    paths = {name: own / name for name in sizes}
    if all(path.is_file() and path.stat().st_size == sizes[n] * LINE_TOKENS for n, path in paths.items()):
        return own
    own.mkdir(parents=True, exist_ok=True)
    drawn = problems()
    for name, count in sizes.items():
        write_atomic(paths[name], "".join(line(*problem) for problem in itertools.islice(drawn, count)))
    return own
