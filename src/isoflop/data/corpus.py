"""A corpus ready to train on: token ids on disk, split, counted and hashed; made once, then opened.

    CACHE/corpora/<key>/{record.json, train.bin, val.bin, token_bytes.npy, tokenizer.json}
    CACHE/index/<listing>.json        which key belongs to files that have not been touched since

CACHE is the environment variable ISOFLOP_CACHE, or the user's cache folder. The key is made of the hashes
of the corpus and of the tokenizer, so a cached corpus can be found by what a run's spec says. Which windows
a run sees, and in which order, is `isoflop.data.order`.

A document is followed by the tokenizer's end token, which stands for no bytes of text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import filelock
import msgspec
import numpy as np
import numpy.typing as npt
import platformdirs

from isoflop.data import digit_tasks
from isoflop.data import tokenizer as tokenizers
from isoflop.data.documents import (
    HELD_OUT_ONE_IN,
    DataError,
    Document,
    Side,
    Skips,
    TextSource,
    find_source,
    read_documents,
)
from isoflop.data.shards import TokenShards, is_shard_folder, open_shards, token_dtype
from isoflop.data.tokenizer import Tokenizer
from isoflop.records import CorpusRecord, DataSource, encode, read, sha256_json
from isoflop.store import StoreError, write_atomic

FORMAT = 1
"""Version of the cache's layout; part of every key."""

BPE_TRAINING_BYTES = 16_000_000
"""A BPE is trained on at most so much of the train part: on the documents with the smallest hashes."""
ENCODE_BATCH_BYTES = 4_000_000
ENCODE_PIECE_BYTES = 1_000_000
"""Longer documents are encoded in pieces that end at a line, to bound memory."""
HELD_OUT_SHARE = (0.01, 0.25)
"""When hashing whole documents holds out a share of the bytes outside this range, their tails are held out."""

Progress = Callable[[str], None]
SplitRule = Literal["hash", "tail", "names"]
_RULE_IN_WORDS: dict[SplitRule, str] = {
    "hash": f"a document is held out when sha256(its name) mod {HELD_OUT_ONE_IN} is 0",
    "tail": f"the last {HELD_OUT_ONE_IN}th of each document is held out (too few documents to split by hash)",
    "names": "as the names of the files say: train and validation",
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Token ids of one corpus, memory-mapped."""

    record: CorpusRecord
    train: npt.NDArray[Any] | TokenShards
    """[train_tokens] uint16, or uint32 for a vocabulary over 65,536; `read_windows` reads either form."""
    val: npt.NDArray[Any] | TokenShards
    """[val_tokens], as train."""
    token_bytes: npt.NDArray[np.int32]
    """[vocab_size] bytes of text that each id stands for; 0 for special tokens."""
    folder: Path
    """Where the files lie. Never identity."""

    def data_source(
        self, weight: float = 1.0, weight_unit: Literal["tokens", "rows"] = "tokens"
    ) -> DataSource:
        """What a run's spec says about this corpus."""
        return DataSource(
            source=self.record.source,
            corpus_sha256=self.record.corpus_sha256,
            tokenizer=self.record.tokenizer,
            tokenizer_sha256=self.record.tokenizer_sha256,
            weight=weight,
            weight_unit=weight_unit,
        )

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids. Needs the tokenizers library unless it is "bytes"."""
        path = self.folder / "tokenizer.json"
        return tokenizers.load(
            self.record.tokenizer, path.read_text(encoding="utf-8") if path.exists() else None
        )


def default_cache_dir() -> Path:
    """ISOFLOP_CACHE, or the user's cache folder of this platform."""
    given = os.environ.get("ISOFLOP_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("isoflop"))


def prepare(
    source: str | Path = "stdlib",
    tokenizer: str = "bpe-512",
    *,
    text_field: str | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Read, split, tokenize and cache a corpus; the second time only open it.

    Args:
        source: "stdlib", or a folder or file of text, .jsonl or .parquet (plain, .gz, .zst), or "digit-tasks",
            which is made by rule (`isoflop.data.digit_tasks`). A folder of token shards
            (`isoflop.data.tokenize`) is opened where it is, whatever `tokenizer` says.
        tokenizer: "bytes", "bpe-N" (trained on the train part) or the path of a tokenizer.json.
        text_field: field of a row that holds its text; found by its usual names when left out.
        cache_dir: instead of `default_cache_dir()`.
        progress: called with a sentence when a long step begins.

    Raises:
        DataError: nothing to read, nothing left after the skips, a cache that cannot be written.
        ValueError: no such tokenizer.
    """
    if is_shard_folder(source):
        return open_shard_corpus(source)
    tokenizers.check_name(tokenizer)
    cache = cache_dir or default_cache_dir()
    made = str(source) == digit_tasks.NAME and not Path(source).exists()
    found = _made_by_rule(cache) if made else find_source(source, text_field)
    index = cache / "index" / f"{_listing_key(found, tokenizer)}.json"
    say = progress or (lambda sentence: None)
    if corpus := _open_indexed(cache, index, found):
        return corpus
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(index.with_suffix(".lock"), say):
            if corpus := _open_indexed(cache, index, found):  # another process has made it meanwhile
                return corpus
            corpus = _make(found, tokenizer, cache, say)
            write_atomic(index, json.dumps({"key": corpus.folder.name}))
            return corpus
    except OSError as error:
        raise DataError(
            f"cannot write the cache at {cache}: {error.strerror or error}; free some space or set ISOFLOP_CACHE"
        ) from error


def _made_by_rule(cache: Path) -> TextSource:
    """The text of `digit_tasks`, written into the cache and named by its rule, not by its place."""
    try:
        folder = digit_tasks.write(cache / "made")
    except StoreError as error:
        raise DataError(f"cannot write the cache at {cache}: {error}; set ISOFLOP_CACHE") from error
    return dataclasses.replace(
        find_source(folder),
        given=digit_tasks.NAME,
        description="four tasks on strings of digits, made by rule",
    )


def open_shard_corpus(folder: str | Path) -> Corpus:
    """A folder of token shards as a corpus. Errors as for `isoflop.data.shards.open_shards`."""
    opened = open_shards(folder)
    return Corpus(
        record=opened.index.corpus_record(str(folder)),
        train=opened.train,
        val=opened.val,
        token_bytes=opened.token_bytes,
        folder=Path(folder),
    )


def open_corpus(
    source: DataSource, *, cache_dir: Path | None = None, progress: Progress | None = None
) -> Corpus:
    """The corpus that a run's spec names: from the cache by its hashes, else prepared again.

    Raises DataError when what is prepared now has other hashes: the text or the tokenizer has changed.
    """
    cache = cache_dir or default_cache_dir()
    key = _corpus_key(source.corpus_sha256, source.tokenizer_sha256)
    if corpus := _open(cache / "corpora" / key, source.source, source.tokenizer):
        return corpus
    corpus = prepare(source.source, source.tokenizer, cache_dir=cache, progress=progress)
    for what, wanted, found in (
        ("text", source.corpus_sha256, corpus.record.corpus_sha256),
        ("tokenizer", source.tokenizer_sha256, corpus.record.tokenizer_sha256),
    ):
        if wanted != found:
            raise DataError(
                f"the {what} of {source.source!r} ({source.tokenizer}) is not the one that the run was made for: "
                f"wanted sha256 {wanted[:16]}, found {found[:16]} ({corpus.record.description}). Use the same "
                "text (for stdlib: the same Python release), or plan again"
            )
    return corpus


def epochs_of(record: CorpusRecord, tokens: float) -> float:
    """How often so many training tokens go through the train part."""
    return tokens / record.train_tokens


def check_epochs(record: CorpusRecord, tokens: float, limit: float = 4.0) -> float:
    """The number of epochs, or DataError beyond `limit`.

    Up to about four epochs repeated text is worth almost as much as new text (Muennighoff et al. 2023,
    "Scaling Data-Constrained Language Models", section 6); beyond, a comparison at equal compute would
    compare how models bear repetition.
    """
    epochs = epochs_of(record, tokens)
    if epochs > limit:
        raise DataError(
            f"{tokens:,.0f} tokens would be {epochs:.1f} epochs of {record.source!r} "
            f"({record.train_tokens:,} training tokens); the limit is {limit:g}. Give a larger corpus, "
            f"train on at most {limit * record.train_tokens:,.0f} tokens, or state a higher limit"
        )
    return epochs


# -------------------------------------------------------------------------------------- cache


def _listing_key(found: TextSource, tokenizer: str) -> str:
    """Changes when a file of the source, the tokenizer or the layout of the cache does."""
    path = Path(tokenizer)
    tokenizer_is_file = tokenizer != "bytes" and not tokenizers.is_trained(tokenizer)
    content = hashlib.sha256(path.read_bytes()).hexdigest() if tokenizer_is_file else ""
    return sha256_json([FORMAT, found.listing_sha256(), tokenizer, content])


def _corpus_key(corpus_sha256: str, tokenizer_sha256: str) -> str:
    return sha256_json([FORMAT, corpus_sha256, tokenizer_sha256])[:32]


def _open_indexed(cache: Path, index: Path, found: TextSource) -> Corpus | None:
    try:
        key = json.loads(index.read_bytes())["key"]
    except (OSError, ValueError, KeyError):
        return None
    return _open(cache / "corpora" / str(key), found.given, None)


def _open(folder: Path, given: str, tokenizer: str | None) -> Corpus | None:
    """The corpus in a folder of the cache; None when there is none, or a damaged one."""
    try:
        record = read(folder / "record.json", CorpusRecord)
        token_bytes = np.load(folder / "token_bytes.npy")
        train = _map(folder / "train.bin", record.vocab_size, record.train_tokens)
        val = _map(folder / "val.bin", record.vocab_size, record.val_tokens)
    except (OSError, ValueError):  # RecordError is a ValueError
        return None
    changes = {"source": given} | ({"tokenizer": tokenizer} if tokenizer else {})
    record = msgspec.structs.replace(record, **changes)
    return Corpus(record=record, train=train, val=val, token_bytes=token_bytes, folder=folder)


def _map(path: Path, vocab_size: int, num_tokens: int) -> npt.NDArray[Any]:
    dtype = token_dtype(vocab_size)
    if path.stat().st_size != num_tokens * dtype.itemsize:
        raise ValueError(f"{path} does not hold {num_tokens} tokens")
    return np.memmap(path, dtype=dtype, mode="r") if num_tokens else np.zeros(0, dtype)


@contextlib.contextmanager
def _one_at_a_time(path: Path, say: Progress) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say("another process prepares the same corpus; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------------- making


@dataclass(frozen=True)
class _Surveyed:
    """What the first reading keeps of a document."""

    where: str
    sha256: str
    side: Side
    num_bytes: int


def _make(found: TextSource, tokenizer_name: str, cache: Path, say: Progress) -> Corpus:
    """Survey, tokenize, write beside the final place, rename into it."""
    say(f"reading {found.description}")
    skips = found.skips
    survey = [
        _Surveyed(
            document.where, hashlib.sha256(document.data).hexdigest(), document.side, len(document.data)
        )
        for document in read_documents(found, skips)
    ]
    if not survey:
        reasons = "; ".join(f"{left.what}: {left.reason}" for left in skips.exclusions()[:3])
        raise DataError(f"no readable text in {found.given!r} ({reasons})")
    rule = _choose_rule(survey, found.named_split)
    tokenizer = _get_tokenizer(tokenizer_name, found, survey, rule, say)
    corpora = cache / "corpora"
    temporary = corpora / f".making-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    try:
        say(f"tokenizing {sum(item.num_bytes for item in survey) / 1e6:.1f} MB with {tokenizer_name}")
        counts = _write_tokens(temporary, found, survey, rule, tokenizer)
        record = _record(found, skips, survey, rule, tokenizer, counts)
        _write_small_files(temporary, record, tokenizer)
        folder = corpora / _corpus_key(record.corpus_sha256, record.tokenizer_sha256)
        if _open(folder, found.given, None) is None:
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    corpus = _open(folder, found.given, tokenizer_name)
    if corpus is None:
        raise DataError(f"what was just written to {folder} cannot be read back; check the disk")
    return corpus


def _choose_rule(survey: Sequence[_Surveyed], named_split: bool) -> SplitRule:
    if named_split:
        return "names"
    held_out = sum(item.num_bytes for item in survey if item.side == "val")
    lowest, highest = HELD_OUT_SHARE
    return "hash" if lowest <= held_out / sum(item.num_bytes for item in survey) <= highest else "tail"


def _parts(document: Document, rule: SplitRule) -> list[tuple[Side, bytes]]:
    """The document's text on each side of the split."""
    if rule != "tail":
        return [(document.side, document.data)]
    cut = cut_at_line(document.data, len(document.data) - len(document.data) // HELD_OUT_ONE_IN)
    parts: list[tuple[Side, bytes]] = [("train", document.data[:cut]), ("val", document.data[cut:])]
    return [(side, data) for side, data in parts if data]


def cut_at_line(data: bytes, at: int) -> int:
    """Where to cut a long text near `at`: the end of a line before it, else the start of a character."""
    line_end = data.rfind(b"\n", at - at // 5, at) + 1
    if line_end:
        return line_end
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:  # inside a UTF-8 character
        at -= 1
    return at


def pieces_of(data: bytes) -> Iterator[bytes]:
    """A long text in pieces that are encoded one by one."""
    while len(data) > ENCODE_PIECE_BYTES:
        cut = cut_at_line(data, ENCODE_PIECE_BYTES)
        yield data[:cut]
        data = data[cut:]
    yield data


def _get_tokenizer(
    name: str, found: TextSource, survey: Sequence[_Surveyed], rule: SplitRule, say: Progress
) -> Tokenizer:
    if not tokenizers.is_trained(name):
        return tokenizers.load(name)
    chosen: set[str] = set()
    room = BPE_TRAINING_BYTES
    for item in sorted(survey, key=lambda item: item.sha256):
        if (item.side == "train" or rule == "tail") and (room >= item.num_bytes or not chosen):
            chosen.add(item.where)
            room -= item.num_bytes
    say(f"training {name} on {(BPE_TRAINING_BYTES - room) / 1e6:.1f} MB")
    return tokenizers.train_bpe(
        name,
        (
            piece
            for document in read_documents(found, Skips())
            if document.where in chosen
            for side, data in _parts(document, rule)
            if side == "train"
            for piece in pieces_of(data)
        ),
    )


@dataclass
class _Counts:
    """What was written, per side."""

    documents: dict[Side, int]
    text_bytes: dict[Side, int]
    tokens: dict[Side, int]
    token_bytes: dict[Side, int]
    """Bytes of text according to the tokens; equal to text_bytes for a tokenizer that loses nothing."""


def _write_tokens(
    folder: Path, found: TextSource, survey: Sequence[_Surveyed], rule: SplitRule, tokenizer: Tokenizer
) -> _Counts:
    """Write train.bin and val.bin; the text must still be what the survey saw."""
    counts = _Counts(*({"train": 0, "val": 0} for _ in range(4)))  # type: ignore[arg-type]
    with (folder / "train.bin").open("wb") as train, (folder / "val.bin").open("wb") as val:
        files: dict[Side, IO[bytes]] = {"train": train, "val": val}
        for batch in _batches(found, survey, rule, counts):
            ids_of = tokenizer.encode([data for _, data, _ in batch])
            for (side, _, is_last), ids in zip(batch, ids_of, strict=True):
                counts.token_bytes[side] += int(tokenizer.token_bytes[ids].sum())
                if is_last and tokenizer.end_token is not None:
                    ids = np.append(ids, tokenizer.end_token)
                counts.tokens[side] += len(ids)
                files[side].write(ids.astype(token_dtype(tokenizer.vocab_size)).tobytes())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    return counts


def _batches(
    found: TextSource, survey: Sequence[_Surveyed], rule: SplitRule, counts: _Counts
) -> Iterator[list[tuple[Side, bytes, bool]]]:
    """Batches of (side, piece of text, whether it ends its document)."""
    batch: list[tuple[Side, bytes, bool]] = []
    size = 0
    expected = iter(survey)
    for document in read_documents(found, Skips()):
        item = next(expected, None)
        if item is None or hashlib.sha256(document.data).hexdigest() != item.sha256:
            raise DataError(f"{document.where} changed while it was being read; try again")
        for side, data in _parts(document, rule):
            counts.documents[side] += 1
            counts.text_bytes[side] += len(data)
            pieces = list(pieces_of(data))
            batch += [(side, piece, number == len(pieces)) for number, piece in enumerate(pieces, start=1)]
            size += len(data)
        if size >= ENCODE_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if next(expected, None) is not None:
        raise DataError(f"files of {found.given!r} vanished while they were being read; try again")
    if batch:
        yield batch


def _record(
    found: TextSource,
    skips: Skips,
    survey: Sequence[_Surveyed],
    rule: SplitRule,
    tokenizer: Tokenizer,
    counts: _Counts,
) -> CorpusRecord:
    description = found.description
    text_bytes = sum(counts.text_bytes.values())
    token_bytes = sum(counts.token_bytes.values())
    if token_bytes != text_bytes:
        description += f"; its tokens stand for {100 * token_bytes / text_bytes:.2f} % of its bytes"
    return CorpusRecord(
        source=found.given,
        corpus_sha256=sha256_json([rule, sorted([item.where, item.sha256, item.side] for item in survey)]),
        tokenizer=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        num_train_files=counts.documents["train"],
        num_val_files=counts.documents["val"],
        train_bytes=counts.text_bytes["train"],
        val_bytes=counts.text_bytes["val"],
        train_tokens=counts.tokens["train"],
        val_tokens=counts.tokens["val"],
        split_rule=_RULE_IN_WORDS[rule],
        description=description,
        skipped=skips.exclusions(),
    )


def _write_small_files(folder: Path, record: CorpusRecord, tokenizer: Tokenizer) -> None:
    np.save(folder / "token_bytes.npy", tokenizer.token_bytes)
    if tokenizer.json_text is not None:
        write_atomic(folder / "tokenizer.json", tokenizer.json_text)
    write_atomic(folder / "record.json", encode(record, indent=1))
