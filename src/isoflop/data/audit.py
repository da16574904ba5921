"""Does a loader repeat or omit text when runs are killed and resumed? Counted by hashing every sequence.

A run is a chain of sessions. Each ends by a kill; the next one starts from the last checkpoint, so the steps
behind it are done again and only the samples up to it count. What the finished run has seen is compared with
what an undisturbed run of the same loader would have seen.

Four ways of resuming are audited side by side on the same windows:

    stateful   the order is a function of (seed, sample index); the checkpoint holds the index (this package)
    skip       a stream with a shuffle buffer is opened again and as many windows are skipped as were used
    position   the stream's position is kept, the content of its shuffle buffer is not
    fresh      each session shuffles anew and starts at the beginning

The last three are what streaming loaders do; what they cost in general is worked out in the study
`loader_audit`. Left out: loaders that resume by reading everything again, which are exact and slow.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from isoflop.data.corpus import Corpus
from isoflop.data.order import TrainingWindows
from isoflop.records import Column, DataSpec, Record, Table

IntArray = npt.NDArray[np.int64]
Strategy = Literal["stateful", "skip", "position", "fresh"]
STRATEGIES: tuple[Strategy, ...] = ("stateful", "skip", "position", "fresh")


class AuditCount(Record, frozen=True, kw_only=True):
    """What a run saw, against an undisturbed one of the same length."""

    strategy: str
    sessions: int
    samples: int
    """Sequences behind the final weights."""
    distinct: int
    repeats: int
    """Showings beyond those that the undisturbed run has, of sequences that were shown before."""
    omissions: int
    """Sequences that the undisturbed run has shown by now and this one has not."""
    strangers: int
    """Sequences shown that would not have come yet; repeats + strangers = omissions."""
    wasted: int
    """Sequences computed on and lost with a kill."""

    @property
    def exact(self) -> bool:
        """True when nothing was repeated, omitted or out of place."""
        return self.repeats == self.omissions == self.strangers == 0

    @property
    def epochs_per_distinct(self) -> float:
        """How often a sequence that was seen was seen on average."""
        return self.samples / max(1, self.distinct)


class Feed(Protocol):
    """A loader in one session."""

    def take(self, count: int) -> IntArray:
        """The next `count` sequences, [count, context + 1]."""

    def state(self) -> int:
        """What a checkpoint keeps of it."""


OpenFeed = Callable[[int, int], Feed]
"""(session from 0, state in the checkpoint; 0 at the start) -> the loader of that session."""


@dataclass(frozen=True, kw_only=True)
class Kills:
    """When a run's sessions end.

    Attributes:
        at_steps: updates that each session but the last makes before it is killed, counted in that session.
        num_steps: updates of the whole run.
        checkpoint_every: updates between checkpoints, counted over the run.
    """

    at_steps: tuple[int, ...]
    num_steps: int
    checkpoint_every: int


def hash_rows(rows: IntArray) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each sequence; equal content has equal hashes."""
    data = np.ascontiguousarray(rows, dtype="<i8")
    return np.array(
        [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in data],
        dtype=np.uint64,
    )


def audit(open_feed: OpenFeed, kills: Kills, batch_seqs: int, strategy: str = "") -> AuditCount:
    """Run a loader through kills and resumes and count.

    Args:
        open_feed: opens the loader of a session.
        kills: when sessions end.
        batch_seqs: sequences per update.
        strategy: its name, for the result.

    Raises ValueError when a session would be killed before the first checkpoint forever, or at no step.
    """
    if kills.checkpoint_every < 1 or kills.num_steps < 1 or min(kills.at_steps, default=1) < 1:
        raise ValueError(f"{kills}: steps, kills and checkpoints are counted from 1")
    seen: list[npt.NDArray[np.uint64]] = []
    step = state = wasted = 0
    for session, lasts in enumerate((*kills.at_steps, kills.num_steps)):
        feed, since = open_feed(session, state), []
        for _ in range(min(lasts, kills.num_steps - step)):
            since.append(hash_rows(feed.take(batch_seqs)))
            done = step + len(since)
            if done % kills.checkpoint_every == 0 or done == kills.num_steps:
                seen += since
                step, state, since = done, feed.state(), []
        wasted += len(since) * batch_seqs
        if step == kills.num_steps:
            break
    undisturbed = _undisturbed(open_feed, kills.num_steps, batch_seqs)
    return _count(np.concatenate(seen), undisturbed, strategy, session + 1, wasted)


def audit_steps(
    steps: Iterable[tuple[int, npt.NDArray[np.uint64]]], undisturbed: npt.NDArray[np.uint64], sessions: int
) -> AuditCount:
    """Count from what a trainer wrote down: (step, hashes of its sequences) in the order of writing.

    A step that comes again was done again, after a resume: the later one counts, and all steps after it that
    were written before are void.

    Args:
        steps: as they were written, over all attempts.
        undisturbed: hashes of what the run should have seen, in any order.
        sessions: attempts, for the result.
    """
    kept: dict[int, npt.NDArray[np.uint64]] = {}
    written = 0
    for step, hashes in steps:
        for void in [later for later in kept if later >= step]:
            del kept[void]
        kept[step] = hashes
        written += len(hashes)
    seen = np.concatenate([kept[step] for step in sorted(kept)]) if kept else np.zeros(0, np.uint64)
    return _count(seen, undisturbed, "as recorded", sessions, written - len(seen))


def _undisturbed(open_feed: OpenFeed, num_steps: int, batch_seqs: int) -> npt.NDArray[np.uint64]:
    feed = open_feed(0, 0)
    return np.concatenate([hash_rows(feed.take(batch_seqs)) for _ in range(num_steps)])


def _count(
    seen: npt.NDArray[np.uint64],
    undisturbed: npt.NDArray[np.uint64],
    strategy: str,
    sessions: int,
    wasted: int,
) -> AuditCount:
    shown, wanted = Counter(seen.tolist()), Counter(undisturbed.tolist())
    return AuditCount(
        strategy=strategy,
        sessions=sessions,
        samples=len(seen),
        distinct=len(shown),
        repeats=sum(max(0, count - max(1, wanted[key])) for key, count in shown.items()),
        omissions=sum(max(0, count - shown[key]) for key, count in wanted.items()),
        strangers=sum(key not in wanted for key in shown),
        wasted=wasted,
    )


# ------------------------------------------------------------------------------ the four strategies


class _Indexed:
    """This package's loader: resumes at a sample index."""

    def __init__(self, windows: TrainingWindows, first_sample: int) -> None:
        self._windows, self._next = windows, first_sample

    def take(self, count: int) -> IntArray:
        rows = self._windows.batch(self._next, count)
        self._next += count
        return rows

    def state(self) -> int:
        return self._next


class _Buffered:
    """A stream of windows through a shuffle buffer, as streaming data sets have it.

    The buffer is filled first; then each step hands out one of its entries by chance and puts the next
    window of the stream into its place.
    """

    def __init__(
        self, windows: TrainingWindows, first: int, used: int, buffer: int, seed: int, keeps: str
    ) -> None:
        """Open at window `first` of the stream; `used` windows were handed out before."""
        self._windows, self._keeps = windows, keeps
        self._used, self._read = used, first
        self._picks = self._shuffled(buffer, np.random.default_rng(seed))

    def _shuffled(self, buffer: int, generator: np.random.Generator) -> Iterator[int]:
        held: list[int] = []
        while True:
            window = self._read
            self._read += 1
            if len(held) < buffer:
                held.append(window)
                continue
            place = int(generator.integers(buffer))
            yield held[place]
            held[place] = window

    def take(self, count: int) -> IntArray:
        picks = [next(self._picks) for _ in range(count)]
        self._used += count
        return np.concatenate([self._windows.batch(pick, 1) for pick in picks])

    def state(self) -> int:
        return self._used if self._keeps == "used" else self._read


def open_strategy(
    strategy: Strategy,
    windows: TrainingWindows,
    reseed: Callable[[int], TrainingWindows],
    *,
    buffer: int,
    seed: int = 0,
) -> OpenFeed:
    """The loader of a strategy over the same windows.

    Args:
        strategy: one of `STRATEGIES`.
        windows: in their order, which stands for the order of the stream.
        reseed: the same text in the order of another seed, for "fresh".
        buffer: windows in the shuffle buffer of "skip" and "position".
        seed: of the buffer's draws.
    """
    if strategy == "stateful":
        return lambda session, state: _Indexed(windows, state)
    if strategy == "fresh":
        return lambda session, state: _Indexed(reseed(session), 0)
    if strategy not in STRATEGIES:
        raise ValueError(f"no strategy {strategy!r}; there are: {', '.join(STRATEGIES)}")

    def reopen(session: int, state: int) -> Feed:
        keeps = "used" if strategy == "skip" else "read"
        return _Buffered(windows, state, state, buffer, seed + session, keeps)

    return reopen


def audit_strategies(
    windows: TrainingWindows,
    reseed: Callable[[int], TrainingWindows],
    kills: Kills,
    *,
    batch_seqs: int,
    buffer: int,
    strategies: Sequence[Strategy] = STRATEGIES,
) -> tuple[AuditCount, ...]:
    """All strategies through the same kills. Arguments as for `open_strategy` and `audit`."""
    return tuple(
        audit(open_strategy(strategy, windows, reseed, buffer=buffer), kills, batch_seqs, strategy)
        for strategy in strategies
    )


def audit_data(
    data: DataSpec, corpora: Sequence[Corpus], kills: Kills, *, batch_seqs: int, buffer: int
) -> tuple[AuditCount, ...]:
    """All strategies on opened corpora, in the order that a run's spec names."""

    def reseed(session: int) -> TrainingWindows:
        seed = (data.order_seed + 1) * 1_000_003 + session
        return TrainingWindows(msgspec.structs.replace(data, order_seed=seed), corpora)

    windows = TrainingWindows(data, corpora)
    return audit_strategies(windows, reseed, kills, batch_seqs=batch_seqs, buffer=buffer)


def kill_times(
    num_steps: int, num_kills: int, checkpoint_every: int, generator: np.random.Generator
) -> Kills:
    """Kills at random moments: each session lasts a uniform number of updates around num_steps / (kills + 1)."""
    mean = max(1, num_steps // (num_kills + 1))
    lasts = generator.integers(1, 2 * mean + 1, size=num_kills)
    return Kills(
        at_steps=tuple(int(n) for n in lasts), num_steps=num_steps, checkpoint_every=checkpoint_every
    )


def audit_table(counts: Sequence[AuditCount]) -> Table:
    """The counts side by side."""
    return Table(
        name="loader_audit",
        title="What a killed and resumed run has seen, against an undisturbed one",
        columns=(
            Column(name="strategy", title="resumes by"),
            Column(name="sessions", title="sessions", format="{:,}"),
            Column(name="samples", title="sequences", format="{:,}"),
            Column(name="distinct", title="different", format="{:,}"),
            Column(name="repeats", title="repeated", format="{:,}"),
            Column(name="omissions", title="omitted", format="{:,}"),
            Column(name="wasted", title="done again", format="{:,}"),
        ),
        rows=tuple(
            (one.strategy, one.sessions, one.samples, one.distinct, one.repeats, one.omissions, one.wasted)
            for one in counts
        ),
    )
