"""Token ids in many files that read as one long array: the form in which large corpora are trained on.

    FOLDER/shards.json                 what is there: counts, hashes, tokenizer
    FOLDER/tokenizer.json              the tokenizer itself (none for "bytes")
    FOLDER/token_bytes.npy             [vocab] bytes of text per id
    FOLDER/shards/NAME.train.bin       token ids, little-endian, 2 bytes up to a vocabulary of 65,536, else 4
    FOLDER/shards/NAME.val.bin         held-out documents of the same part of the text
    FOLDER/shards/NAME.json            one part's counts, written last: with it the part is done

Files are memory-mapped, so a corpus may be larger than memory, and any window is found at once. They are
made by `isoflop.data.tokenize`, which says what a part is. Opening checks every file's size; `check_hashes`
reads them all. Which windows a run sees is `isoflop.data.order`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from isoflop.data.documents import DataError, Side
from isoflop.records import CorpusRecord, Exclusion, Record, RecordError, encode, read, sha256_json
from isoflop.store import write_atomic

IntArray = npt.NDArray[np.int64]

SIDES: tuple[Side, Side] = ("train", "val")
INDEX = "shards.json"
PARTS = "shards"
ROW_WISE_FROM = 512
"""Windows from this width on are copied one by one; shorter ones are gathered together."""


class ShardPart(Record, frozen=True, kw_only=True):
    """What one part of the text became."""

    name: str
    """File name without ending; sorts in the order of the text."""
    where: str
    """Which text: a file below the source, or a piece of one."""
    train_documents: int
    val_documents: int
    train_tokens: int
    val_tokens: int
    train_bytes: int
    """Bytes of text."""
    val_bytes: int
    train_sha256: str
    """Of the file of token ids."""
    val_sha256: str
    skipped: tuple[Exclusion, ...] = ()


class ShardSet(Record, frozen=True, kw_only=True):
    """The index of a folder of token shards."""

    source: str
    """As the user wrote it."""
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    end_token: int | None
    """Follows each document; None when the tokenizer has none."""
    begin_token: int | None
    """Precedes each document; None when none was asked for."""
    held_out_one_in: int | None
    """One document in so many is held out, by the hash of its name; None holds out none."""
    parts: tuple[ShardPart, ...]
    left_out: tuple[Exclusion, ...] = ()
    """Parts that were damaged and taken out of the index, with the reason."""

    @property
    def corpus_sha256(self) -> str:
        """Identity of the text as tokenized: the hashes of all parts, in order."""
        return sha256_json(["shards/1", [[part.train_sha256, part.val_sha256] for part in self.parts]])

    def corpus_record(self, source: str) -> CorpusRecord:
        """The same in the words that runs and reports use."""
        rule = (
            f"a document is held out when sha256(its name) mod {self.held_out_one_in} is 0"
            if self.held_out_one_in
            else "nothing is held out"
        )
        skipped = [*self.left_out, *(exclusion for part in self.parts for exclusion in part.skipped)]
        return CorpusRecord(
            source=source,
            corpus_sha256=self.corpus_sha256,
            tokenizer=self.tokenizer,
            tokenizer_sha256=self.tokenizer_sha256,
            vocab_size=self.vocab_size,
            num_train_files=sum(part.train_documents for part in self.parts),
            num_val_files=sum(part.val_documents for part in self.parts),
            train_bytes=sum(part.train_bytes for part in self.parts),
            val_bytes=sum(part.val_bytes for part in self.parts),
            train_tokens=sum(part.train_tokens for part in self.parts),
            val_tokens=sum(part.val_tokens for part in self.parts),
            split_rule=rule,
            description=f"{len(self.parts)} token shards of {self.source}",
            skipped=tuple(skipped[:100]),
        )


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """How an id is stored."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class TokenShards:
    """A long array of token ids that lies in many files. Files are mapped when they are first read."""

    def __init__(self, files: Sequence[Path], num_tokens: Sequence[int], dtype: np.dtype[Any]) -> None:
        """
        Args:
            files: in order.
            num_tokens: ids in each.
            dtype: how an id is stored.
        """
        kept = [(path, count) for path, count in zip(files, num_tokens, strict=True) if count]
        self.dtype = dtype
        self._files = [path for path, _ in kept]
        self._counts = np.array([count for _, count in kept], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self._maps: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def windows(self, starts: IntArray, width: int) -> IntArray:
        """Tokens starts[i] .. starts[i] + width - 1 of each i: int64 [windows, width].

        Raises IndexError for a window that leaves the array.
        """
        if len(starts) and (starts.min() < 0 or int(starts.max()) + width > len(self)):
            raise IndexError(f"windows of {width} tokens leave an array of {len(self)} tokens")
        found = np.empty((len(starts), width), dtype=np.int64)
        shard = np.searchsorted(self._starts, starts, side="right") - 1
        crossing = starts + width > self._starts[shard + 1]
        for index in np.unique(shard[~crossing]):
            rows = np.flatnonzero((shard == index) & ~crossing)
            _copy_windows(self._map(int(index)), starts[rows] - self._starts[index], found, rows)
        for row in np.flatnonzero(crossing):
            self._copy_across(int(starts[row]), found[row])
        return found

    def _copy_across(self, start: int, out: npt.NDArray[np.int64]) -> None:
        """One window that begins in a shard and ends in a later one."""
        filled = 0
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < len(out):
            tokens = self._map(shard)
            offset = start + filled - int(self._starts[shard])
            count = min(len(out) - filled, len(tokens) - offset)
            out[filled : filled + count] = tokens[offset : offset + count]
            filled += count
            shard += 1

    def _map(self, index: int) -> npt.NDArray[Any]:
        if index not in self._maps:
            path, count = self._files[index], int(self._counts[index])
            try:
                self._maps[index] = np.memmap(path, dtype=self.dtype, mode="r", shape=(count,))
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path} cannot be read any more ({error}): put it back, then resume the run"
                ) from error
        return self._maps[index]


def read_windows(tokens: TokenShards | npt.NDArray[Any], starts: IntArray, width: int) -> IntArray:
    """Windows of a long array, whether it is one file or many: int64 [windows, width]."""
    if isinstance(tokens, TokenShards):
        return tokens.windows(starts, width)
    if width < ROW_WISE_FROM:
        return tokens[starts[:, None] + np.arange(width)].astype(np.int64)
    found = np.empty((len(starts), width), dtype=np.int64)
    _copy_windows(tokens, starts, found, np.arange(len(starts)))
    return found


def _copy_windows(tokens: npt.NDArray[Any], starts: IntArray, out: IntArray, rows: IntArray) -> None:
    """Copy each window into its row. Long windows are plain copies; short ones are gathered at once."""
    width = out.shape[1]
    if width >= ROW_WISE_FROM:
        for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
            out[row] = tokens[start : start + width]
    else:
        out[rows] = tokens[starts[:, None] + np.arange(width)]


# ------------------------------------------------------------------------------------ opening


class OpenShards(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of shards, checked and ready to read."""

    index: ShardSet
    train: TokenShards
    val: TokenShards
    token_bytes: npt.NDArray[np.int32]


def is_shard_folder(path: Path | str) -> bool:
    """True for a finished folder of token shards."""
    return (Path(path) / INDEX).is_file()


def open_shards(folder: Path | str) -> OpenShards:
    """Open a folder of token shards.

    Args:
        folder: as `isoflop.data.tokenize` made it.

    Raises:
        DataError: no finished folder, or damaged files (all are named, up to a few).
    """
    path = Path(folder)
    index = _read_index(path)
    try:
        token_bytes = np.load(path / "token_bytes.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; tokenize it again") from None
    if damage := _find_damage(path, index):
        shown = "; ".join(f"{exclusion.what}: {exclusion.reason}" for exclusion in damage[:3])
        more = f" and {len(damage) - 3} more" if len(damage) > 3 else ""
        raise DataError(
            f"{len(damage)} of {len(index.parts)} token shards in {path} are damaged ({shown}{more}). Tokenize "
            "again (whole parts are kept), or leave the damaged ones out, on record, with --skip-damaged"
        )
    if not any(part.train_tokens for part in index.parts):
        raise DataError(f"{path} holds no training tokens")
    return OpenShards(
        index=index,
        train=_side(path, index, "train"),
        val=_side(path, index, "val"),
        token_bytes=token_bytes,
    )


def leave_out_damaged(folder: Path | str) -> tuple[Exclusion, ...]:
    """Take damaged parts out of the index of a folder, for good and on record. Returns what was taken out.

    The corpus is another one afterwards, by hash and by content; tokenizing again brings the parts back.

    Raises DataError when there is no finished folder, or nothing would be left.
    """
    path = Path(folder)
    index = _read_index(path)
    damage = _find_damage(path, index)
    if not damage:
        return ()
    bad = {exclusion.what for exclusion in damage}
    kept = tuple(part for part in index.parts if part.name not in bad)
    if not any(part.train_tokens for part in kept):
        raise DataError(f"all training tokens of {path} are in damaged shards: tokenize it again")
    index = msgspec.structs.replace(index, parts=kept, left_out=(*index.left_out, *damage))
    write_atomic(path / INDEX, encode(index, indent=1))
    return tuple(damage)


def _read_index(path: Path) -> ShardSet:
    if not is_shard_folder(path):
        unfinished = (path / PARTS).is_dir()
        raise DataError(
            f"{path} holds {'unfinished token shards' if unfinished else 'no token shards'}: make them with "
            f"`isoflop data tokenize SOURCE --tokenizer FILE --out {path}`"
        )
    try:
        return read(path / INDEX, ShardSet)
    except (RecordError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; tokenize it again") from None


def part_path(folder: Path, name: str, side: Side) -> Path:
    """File of token ids of one part."""
    return folder / PARTS / f"{name}.{side}.bin"


def _side(folder: Path, index: ShardSet, side: Side) -> TokenShards:
    return TokenShards(
        [part_path(folder, part.name, side) for part in index.parts],
        [_tokens(part, side) for part in index.parts],
        token_dtype(index.vocab_size),
    )


def _tokens(part: ShardPart, side: Side) -> int:
    return part.train_tokens if side == "train" else part.val_tokens


def _find_damage(folder: Path, index: ShardSet) -> list[Exclusion]:
    """Parts whose files are missing or have another size than the index says."""
    item = token_dtype(index.vocab_size).itemsize
    found = []
    for part in index.parts:
        for side in SIDES:
            reason = _why_damaged(part_path(folder, part.name, side), _tokens(part, side) * item)
            if reason:
                found.append(Exclusion(what=part.name, reason=reason))
                break
    return found


def _why_damaged(path: Path, wanted: int) -> str | None:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    if size != wanted:
        return f"{path.name} has {size:,} bytes instead of {wanted:,}"
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def check_hashes(folder: Path | str) -> tuple[Exclusion, ...]:
    """Read every shard and compare it with its hash. Returns those that differ; none means all is well.

    Raises DataError when the folder cannot be opened at all.
    """
    path = Path(folder)
    index = _read_index(path)
    found = list(_find_damage(path, index))
    bad = {exclusion.what for exclusion in found}
    for part in index.parts:
        if part.name in bad:
            continue
        for side, wanted in zip(SIDES, (part.train_sha256, part.val_sha256), strict=True):
            own = file_sha256(part_path(path, part.name, side))
            if own != wanted:
                found.append(
                    Exclusion(what=part.name, reason=f"{side}: sha256 is {own[:16]}, not {wanted[:16]}")
                )
                break
    return tuple(found)


def file_sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
