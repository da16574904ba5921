"""Which window of text is training sample number g: a pure function of (order_seed, g).

A corpus is cut into windows of ``context`` tokens that do not overlap (each carries one token more, the
target of its last position). Every epoch goes through all windows once, in an order of its own. Nothing
here depends on the batch size, on the number of ranks or on what was read before, so a run resumes at any
sample at once.

The order is a keyed permutation: a balanced-as-possible Feistel network (Luby and Rackoff 1988) over the
next power of two, walked until it lands inside the range (Black and Rogaway 2002, section 3). It is written
out in integer arithmetic because the streams of NumPy's generators may change between releases, and a run's
identity may not.

Several sources share one sequence of samples: their shares are turned into slots of a fixed cycle, spread
evenly, and a source's samples count up through its own slots.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.data.corpus import Corpus
from isoflop.data.documents import DataError
from isoflop.data.shards import read_windows
from isoflop.records import DataSpec

IntArray = npt.NDArray[np.int64]

CYCLE = 10_000
"""Slots of the cycle that several sources share: shares are exact to one in ten thousand."""
FEISTEL_ROUNDS = 8
TABLE_WINDOWS = 1 << 22
"""Up to so many windows an epoch's permutation is kept as a table; beyond, it is computed per sample."""
TABLES_KEPT = 4


class TrainingWindows:
    """The training samples of a run, by global index."""

    def __init__(self, data: DataSpec, corpora: Sequence[Corpus]) -> None:
        """Lay out the order.

        Args:
            data: sources, context and order seed, from the run's spec.
            corpora: one opened corpus per source, in the same order.

        Raises:
            DataError: a corpus shorter than one window, sources with different tokenizers, a source whose
                share rounds to nothing.
            ValueError: not one corpus per source, a corpus that is not the named one, a bad weight.
        """
        _check(data, corpora)
        self.context = data.context
        self.windows_per_source = tuple((len(c.train) - 1) // data.context for c in corpora)
        """Windows of each source."""
        self.num_windows = sum(self.windows_per_source)
        """Windows of all sources."""
        self._seed = data.order_seed
        self._tokens = [corpus.train for corpus in corpora]
        self._slots = _slots(data, corpora)
        self._tables: OrderedDict[tuple[int, int], npt.NDArray[Any]] = OrderedDict()

    def batch(self, first_sample: int, count: int) -> IntArray:
        """Samples first_sample .. first_sample + count - 1: int64 [count, context + 1]."""
        if first_sample < 0 or count < 0:
            raise ValueError(f"samples are counted from 0: first_sample {first_sample}, count {count}")
        source, number = self._place(np.arange(first_sample, first_sample + count, dtype=np.int64))
        if len(self._tokens) == 1:
            return self._read(0, number)
        rows = np.empty((count, self.context + 1), dtype=np.int64)
        for index in range(len(self._tokens)):
            chosen = source == index
            if chosen.any():
                rows[chosen] = self._read(index, number[chosen])
        return rows

    def window_ids(self, first_sample: int, count: int) -> tuple[IntArray, IntArray]:
        """(source, window) of each sample: what an audit counts. Each int64 [count]."""
        source, number = self._place(np.arange(first_sample, first_sample + count, dtype=np.int64))
        windows = np.empty(count, dtype=np.int64)
        for index in range(len(self._tokens)):
            chosen = source == index
            windows[chosen] = self._windows(index, number[chosen])
        return source, windows

    def epochs(self, num_samples: int) -> tuple[float, ...]:
        """How often the first num_samples samples go through each source."""
        counts = self._counts_before(num_samples)
        return tuple(n / windows for n, windows in zip(counts, self.windows_per_source, strict=True))

    # ------------------------------------------------------------------ from sample to window

    def _place(self, samples: IntArray) -> tuple[IntArray, IntArray]:
        """(source, number within the source) of each global sample."""
        if self._slots is None:
            return np.zeros_like(samples), samples
        cycle, slot = np.divmod(samples, CYCLE)
        source = self._slots.source[slot]
        return source, cycle * self._slots.per_cycle[source] + self._slots.rank[slot]

    def _counts_before(self, num_samples: int) -> list[int]:
        if self._slots is None:
            return [num_samples]
        cycles, rest = divmod(num_samples, CYCLE)
        begun = np.bincount(self._slots.source[:rest], minlength=len(self._tokens))
        return [int(n) for n in cycles * self._slots.per_cycle + begun]

    def _windows(self, source: int, numbers: IntArray) -> IntArray:
        """The window of each of a source's samples."""
        num_windows = self.windows_per_source[source]
        epochs, positions = np.divmod(numbers, num_windows)
        found = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._permute(source, int(epoch), positions[chosen])
        return found

    def _permute(self, source: int, epoch: int, positions: IntArray) -> IntArray:
        num_windows = self.windows_per_source[source]
        keys = round_keys(self._seed, source, epoch)
        if num_windows > TABLE_WINDOWS:
            return permute(positions, num_windows, keys)
        table = self._tables.get((source, epoch))
        if table is None:
            table = permute(np.arange(num_windows, dtype=np.int64), num_windows, keys).astype(np.uint32)
            self._tables[source, epoch] = table
            while len(self._tables) > TABLES_KEPT * len(self._tokens):
                self._tables.popitem(last=False)
        return table[positions].astype(np.int64)

    def _read(self, source: int, numbers: IntArray) -> IntArray:
        starts = self._windows(source, numbers) * self.context
        return read_windows(self._tokens[source], starts, self.context + 1)


# ------------------------------------------------------------------------- keyed permutation


def round_keys(order_seed: int, source: int, epoch: int) -> npt.NDArray[np.uint64]:
    """[FEISTEL_ROUNDS] keys of one epoch of one source, from a cryptographic hash."""
    digest = hashlib.sha512(f"isoflop order/1 {order_seed} {source} {epoch}".encode()).digest()
    return np.frombuffer(digest, dtype="<u8", count=FEISTEL_ROUNDS).astype(np.uint64)


def permute(positions: IntArray, size: int, keys: npt.NDArray[np.uint64]) -> IntArray:
    """Image of each position under the permutation of 0 .. size - 1 that the keys name.

    A Feistel network permutes 0 .. 2^bits - 1, the smallest such range that holds `size`; an image outside
    is permuted again until it falls inside, which makes a permutation of the range asked for.
    """
    bits = max(2, (size - 1).bit_length())
    found = positions.astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        found[todo] = _feistel(found[todo], bits, keys)
        todo = todo[found[todo] >= size]
    return found.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """One pass over 2^bits values; the two halves differ by at most one bit, and change places each round."""
    left_bits, right_bits = bits - bits // 2, bits // 2
    left = values >> np.uint64(right_bits)
    right = values & np.uint64((1 << right_bits) - 1)
    for key in keys:
        mixed = _mix(right ^ key) & np.uint64((1 << left_bits) - 1)
        left, right = right, left ^ mixed
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over all (the finalizer of SplitMix64: Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# ------------------------------------------------------------------------------------ mixture


class _Slots:
    """One cycle of a mixture: which source has which slot."""

    def __init__(self, per_cycle: IntArray) -> None:
        self.per_cycle = per_cycle
        """[sources] slots of each source; they sum to CYCLE."""
        at = np.concatenate([(np.arange(n) + 0.5) / n for n in per_cycle])  # evenly spread in [0, 1)
        owner = np.repeat(np.arange(len(per_cycle)), per_cycle)
        rank = np.concatenate([np.arange(n) for n in per_cycle])
        order = np.lexsort((owner, at))
        self.source = owner[order]
        """[CYCLE] source of each slot."""
        self.rank = rank[order]
        """[CYCLE] how many of this source's slots come before."""


def token_shares(data: DataSpec, corpora: Sequence[Corpus]) -> npt.NDArray[np.float64]:
    """[sources] share of the training tokens that each source gets; sums to 1.

    A weight in rows speaks of documents: it is turned into tokens by the mean length of the source's
    documents, because every window holds the same number of tokens.
    """
    weights = []
    for source, corpus in zip(data.sources, corpora, strict=True):
        tokens_per_row = corpus.record.train_tokens / max(1, corpus.record.num_train_files)
        weights.append(source.weight * (tokens_per_row if source.weight_unit == "rows" else 1.0))
    shares = np.array(weights)
    return shares / shares.sum()


def _slots(data: DataSpec, corpora: Sequence[Corpus]) -> _Slots | None:
    if len(corpora) == 1:
        return None
    exact = token_shares(data, corpora) * CYCLE
    per_cycle = np.floor(exact).astype(np.int64)
    largest_rest = np.argsort(per_cycle - exact, kind="stable")
    per_cycle[largest_rest[: CYCLE - per_cycle.sum()]] += 1
    for source, slots in zip(data.sources, per_cycle, strict=True):
        if slots == 0:
            raise DataError(
                f"the share of {source.source!r} is below 1 in {CYCLE}: give it more weight or leave it out"
            )
    return _Slots(per_cycle)


def _check(data: DataSpec, corpora: Sequence[Corpus]) -> None:
    if not corpora or len(corpora) != len(data.sources):
        raise ValueError(f"{len(data.sources)} sources and {len(corpora)} corpora: it takes one for each")
    for source, corpus in zip(data.sources, corpora, strict=True):
        record = corpus.record
        if source.corpus_sha256 != record.corpus_sha256 or source.tokenizer_sha256 != record.tokenizer_sha256:
            raise ValueError(f"the corpus given for {source.source!r} is {record.source!r}, another one")
        if not 0 < source.weight < float("inf"):
            raise ValueError(f"the weight of {source.source!r} is {source.weight}; it takes a number above 0")
        if record.train_tokens <= data.context:
            raise DataError(
                f"{source.source!r} has {record.train_tokens:,} training tokens, too few for one window of "
                f"{data.context:,}: give more text or a shorter context"
            )
    if len({source.weight_unit for source in data.sources}) > 1:
        raise ValueError("weights in tokens and weights in rows cannot be mixed: give all in one unit")
    if len({source.tokenizer_sha256 for source in data.sources}) > 1:
        names = ", ".join(f"{source.source} ({source.tokenizer})" for source in data.sources)
        raise DataError(
            f"these sources are tokenized differently: {names}. A BPE is trained on one source: give the "
            "tokenizer.json of one of them to all"
        )
