"""Turn text of any size into token shards, with all cores and on several machines, and go on after a kill.

The text is cut into parts that depend on the files alone: each file is one, and a large plain JSONL file is
cut into byte ranges. Each part becomes one pair of shard files, written beside their place and renamed, and
its own small JSON last; a part that has one is never done again. So the result is the same bytes for any
number of workers, machines and interruptions. ``--part 2/16`` does every sixteenth part; whoever finishes
the last one writes the index.

Sources: whatever `isoflop.data.documents` reads, and Hugging Face data sets as "hf:NAME[:CONFIG][@SPLIT]",
streamed, or "hf:FOLDER" for one saved to disk. The layout on disk is `isoflop.data.shards`.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import filelock
import numpy as np

from isoflop.data import tokenizer as tokenizers
from isoflop.data.corpus import ENCODE_BATCH_BYTES, pieces_of
from isoflop.data.documents import (
    DataError,
    FilePart,
    Side,
    Skips,
    cut_into_parts,
    find_source,
    read_part,
    side_of,
)
from isoflop.data.hub import HF_PREFIX, HubPart, first_line, hub_parts, load_tokenizer, read_hub
from isoflop.data.shards import (
    INDEX,
    PARTS,
    SIDES,
    ShardPart,
    ShardSet,
    file_sha256,
    part_path,
    token_dtype,
)
from isoflop.data.tokenizer import Tokenizer
from isoflop.records import Exclusion, RecordError, encode, read, sha256_json
from isoflop.store import write_atomic

BYTES_PER_PART = 64_000_000
"""Plain JSONL files are cut into pieces of about this size."""
BYTES_PER_PROCESS = 50_000_000
"""Less than so much (as it lies on disk) is not worth a process of its own: the tokenizer's own threads do it."""
SMALL_FILES_PER_PART = 512
"""Small files of text are taken together, so that a folder of scripts does not become thousands of shards."""
BEGIN_TOKENS = ("<|begin_of_text|>", "<s>", "<bos>", "[CLS]")
PROGRESS_EVERY_S = 2.0

Progress = Callable[[str], None]
Batch = list[tuple[str, bytes]]
"""(key of the split, text) of some documents."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one worker does at a time."""

    number: int
    files: tuple[FilePart, ...] = ()
    hub: HubPart | None = None
    text_field: str | None = None

    @property
    def where(self) -> str:
        if self.hub is not None:
            return self.hub.where
        first, last = self.files[0].where, self.files[-1].where
        return first if len(self.files) == 1 else f"{first} .. {last} ({len(self.files)} files)"

    def identity(self) -> list[Any]:
        """Changes when the text of the part may have."""
        if self.hub is not None:
            return [self.hub.where, self.hub.text_field]
        return [[part.where, part.file.num_bytes, part.file.mtime_ns, self.text_field] for part in self.files]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all parts; goes to every worker."""

    folder: Path
    tokenizer_name: str
    tokenizer_json: str | None
    tokenizer_sha256: str
    begin_token: int | None
    held_out_one_in: int | None

    def part_name(self, part: Part) -> str:
        """Number in the order of the text, and a hash of all that the result depends on."""
        identity = [
            "tokenize/1",
            part.identity(),
            self.tokenizer_sha256,
            self.begin_token,
            self.held_out_one_in,
        ]
        return f"{part.number:06d}-{sha256_json(identity)[:12]}"


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What `tokenize` did.

    Attributes:
        index: the finished index; None while other machines still have parts to do.
        num_parts: of the whole text.
        num_done_before: parts that were there already.
        seconds: wall time.
        text_bytes: bytes of text that this call tokenized.
        tokens: ids that this call wrote.
        damaged: parts left out because they could not be read.
    """

    index: ShardSet | None
    num_parts: int
    num_done_before: int
    seconds: float
    text_bytes: int
    tokens: int
    damaged: tuple[Exclusion, ...]


def tokenize(
    source: str | Path,
    tokenizer: str,
    out: Path | str,
    *,
    text_field: str | None = None,
    workers: int | None = None,
    part: tuple[int, int] = (1, 1),
    begin: bool = False,
    held_out_one_in: int | None = None,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Tokenize a source into a folder of shards, or go on where an earlier call was cut.

    Args:
        source: as for `isoflop.data.prepare`, or a Hugging Face data set as "hf:NAME[:CONFIG][@SPLIT]".
        tokenizer: "bytes", the path of a tokenizer.json or of a folder that has one, or a Hugging Face name.
        out: folder of the shards.
        text_field: field of a row that holds its text; found by its usual names when left out.
        workers: processes; by default one per core where there is enough to do, else this one, whose tokenizer
            works in threads. The result is the same.
        part: (2, 16) does the second of sixteen shares, for several machines on one file system.
        begin: put the tokenizer's begin token before each document (Llama's weights expect it).
        held_out_one_in: hold out one document in so many, by the hash of its name; None holds out none.
        skip_damaged: leave out parts that cannot be read to their end, and say so, instead of refusing.
        progress: receives a line now and then.

    Raises:
        DataError: nothing to read, a part that cannot be read, a worker that was killed, a full disk.
        ValueError: no such tokenizer, or a share that is none.
    """
    started = time.monotonic()
    say = progress or (lambda line: None)
    if not 1 <= part[0] <= part[1]:
        raise ValueError(f"part {part[0]}/{part[1]}: write the share and their number, e.g. 2/16")
    if held_out_one_in is not None and held_out_one_in < 2:
        raise ValueError(f"one document in {held_out_one_in} held out: it takes 2 or more")
    loaded = load_tokenizer(tokenizer)
    job = _job(Path(out), tokenizer, loaded, begin, held_out_one_in)
    parts = find_parts(source, text_field)
    own = [item for item in parts if item.number % part[1] == part[0] - 1]
    todo = [item for item in own if _done(job, item) is None]
    say(f"{len(parts)} parts, {len(own)} for this call, {len(own) - len(todo)} of them done before")
    _prepare_folder(job, loaded)
    made, damaged = _run(job, todo, workers, say)
    if damaged and not skip_damaged:
        shown = "; ".join(f"{item.what}: {item.reason}" for item in damaged[:3])
        raise DataError(
            f"{len(damaged)} of {len(own)} parts cannot be read ({shown}). The others are kept: mend these and "
            "call again, or leave them out, on record, with --skip-damaged"
        )
    index = _finish(job, str(source), parts, loaded, damaged)
    return Tokenized(
        index=index,
        num_parts=len(parts),
        num_done_before=len(own) - len(todo),
        seconds=time.monotonic() - started,
        text_bytes=sum(item.train_bytes + item.val_bytes for item in made),
        tokens=sum(item.train_tokens + item.val_tokens for item in made),
        damaged=tuple(damaged),
    )


def find_parts(source: str | Path, text_field: str | None = None) -> tuple[Part, ...]:
    """How a source is cut; the same for any number of workers."""
    if str(source).startswith(HF_PREFIX):
        return tuple(
            Part(number=number, hub=hub) for number, hub in enumerate(hub_parts(str(source), text_field))
        )
    found = find_source(source, text_field)
    groups: list[list[FilePart]] = []
    size = 0
    for piece in cut_into_parts(found, BYTES_PER_PART):
        end = piece.end_byte if piece.end_byte is not None else piece.file.num_bytes
        num_bytes = end - piece.first_byte
        joins = groups and size + num_bytes <= BYTES_PER_PART and len(groups[-1]) < SMALL_FILES_PER_PART
        if joins and num_bytes < BYTES_PER_PART // 64:
            groups[-1].append(piece)
            size += num_bytes
        else:
            groups.append([piece])
            size = num_bytes
    return tuple(
        Part(number=number, files=tuple(group), text_field=found.text_field)
        for number, group in enumerate(groups)
    )


# -------------------------------------------------------------------------------------- one part


def tokenize_part(job: Job, part: Part, tokenizer: Tokenizer) -> ShardPart | Exclusion:
    """One part from text to shard files; an `Exclusion` when it cannot be read to its end.

    Raises DataError when the disk is full.
    """
    name, skips, counts = job.part_name(part), Skips(), _Counts()
    folder = job.folder / PARTS
    temporary = {side: folder / f".{name}.{side}.{os.getpid()}" for side in SIDES}
    dtype = token_dtype(tokenizer.vocab_size)
    try:
        with contextlib.ExitStack() as held:
            files = {side: held.enter_context(path.open("wb")) for side, path in temporary.items()}
            for batch in _read_ahead(_batches(_documents(part, skips))):
                _write_batch(batch, job, tokenizer, dtype, files, counts)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        made = _part_record(job, part, name, temporary, counts, skips)
        for side in SIDES:
            os.replace(temporary[side], part_path(job.folder, name, side))
        write_atomic(folder / f"{name}.json", encode(made))
        return made
    except _UnreadableError as error:
        return Exclusion(what=part.where, reason=str(error))
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; free some space and call again"
        ) from None
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


@dataclass
class _Counts:
    documents: dict[Side, int] = field(default_factory=lambda: {"train": 0, "val": 0})
    tokens: dict[Side, int] = field(default_factory=lambda: {"train": 0, "val": 0})
    text_bytes: dict[Side, int] = field(default_factory=lambda: {"train": 0, "val": 0})


class _UnreadableError(Exception):
    """A part that cannot be read to its end; told apart from a disk that cannot be written."""


def _documents(part: Part, skips: Skips) -> Iterator[tuple[str, bytes]]:
    """(key, text) of each document of a part."""
    try:
        if part.hub is not None:
            yield from read_hub(part.hub, skips)
        for piece in part.files:
            yield from read_part(piece, part.text_field, skips)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _UnreadableError(first_line(error)) from None


def _batches(documents: Iterator[tuple[str, bytes]]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= ENCODE_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, the next one being read while this one is encoded (which needs no interpreter)."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _write_batch(
    batch: Batch,
    job: Job,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    files: Mapping[Side, IO[bytes]],
    counts: _Counts,
) -> None:
    """Encode a batch of documents and append each to its side."""
    pieces: list[bytes] = []
    last_of: list[int] = []
    for _, data in batch:
        pieces += pieces_of(data)
        last_of.append(len(pieces))
    ids_of = tokenizer.encode(pieces)
    begin = [] if job.begin_token is None else [np.array([job.begin_token])]
    end = [] if tokenizer.end_token is None else [np.array([tokenizer.end_token])]
    first = 0
    for (key, data), last in zip(batch, last_of, strict=True):
        side = side_of(key, job.held_out_one_in) if job.held_out_one_in else "train"
        ids = np.concatenate([*begin, *ids_of[first:last], *end]).astype(dtype)
        files[side].write(ids.tobytes())
        counts.documents[side] += 1
        counts.tokens[side] += len(ids)
        counts.text_bytes[side] += len(data)
        first = last


def _part_record(
    job: Job, part: Part, name: str, files: dict[Side, Path], counts: _Counts, skips: Skips
) -> ShardPart:
    return ShardPart(
        name=name,
        where=part.where,
        train_documents=counts.documents["train"],
        val_documents=counts.documents["val"],
        train_tokens=counts.tokens["train"],
        val_tokens=counts.tokens["val"],
        train_bytes=counts.text_bytes["train"],
        val_bytes=counts.text_bytes["val"],
        train_sha256=file_sha256(files["train"]),
        val_sha256=file_sha256(files["val"]),
        skipped=skips.exclusions(),
    )


# ------------------------------------------------------------------------------------- all parts


def _job(out: Path, name: str, tokenizer: Tokenizer, begin: bool, held_out_one_in: int | None) -> Job:
    begin_token = None
    if begin:
        ids = (
            []
            if tokenizer.backend is None
            else [tokenizer.backend.token_to_id(word) for word in BEGIN_TOKENS]
        )
        begin_token = next((index for index in ids if index is not None), None)
        if begin_token is None:
            raise ValueError(f"{name} has no begin token ({', '.join(BEGIN_TOKENS)}); leave --begin out")
    return Job(
        folder=out,
        tokenizer_name=name,
        tokenizer_json=tokenizer.json_text,
        tokenizer_sha256=tokenizer.sha256,
        begin_token=begin_token,
        held_out_one_in=held_out_one_in,
    )


def _done(job: Job, part: Part) -> ShardPart | None:
    """The record of a part that is done and whose files are whole; None otherwise."""
    name = job.part_name(part)
    try:
        made = read(job.folder / PARTS / f"{name}.json", ShardPart)
        sizes = [part_path(job.folder, name, side).stat().st_size for side in SIDES]
    except (OSError, RecordError):
        return None
    width = _width_of(job)
    return made if sizes == [made.train_tokens * width, made.val_tokens * width] else None


def _width_of(job: Job) -> int:
    return token_dtype(_loaded(job).vocab_size).itemsize


_TOKENIZERS: dict[str, Tokenizer] = {}
"""By hash, in each process: a tokenizer takes some tenths of a second to read."""


def _loaded(job: Job) -> Tokenizer:
    if job.tokenizer_sha256 not in _TOKENIZERS:
        _TOKENIZERS[job.tokenizer_sha256] = tokenizers.load(job.tokenizer_name, job.tokenizer_json)
    return _TOKENIZERS[job.tokenizer_sha256]


def _prepare_folder(job: Job, tokenizer: Tokenizer) -> None:
    """Make the folder and put the tokenizer into it. Refuses a folder of another tokenizer's shards."""
    _TOKENIZERS[job.tokenizer_sha256] = tokenizer
    try:
        (job.folder / PARTS).mkdir(parents=True, exist_ok=True)
        path = job.folder / "tokenizer.json"
        if tokenizer.json_text is not None:
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != tokenizer.sha256:
                raise DataError(f"{job.folder} holds shards of another tokenizer; choose another folder")
            write_atomic(path, tokenizer.json_text)
        elif path.exists():
            raise DataError(f"{job.folder} holds shards of another tokenizer; choose another folder")
        temporary = job.folder / f".token_bytes.{os.getpid()}.npy"
        np.save(temporary, tokenizer.token_bytes)
        os.replace(temporary, job.folder / "token_bytes.npy")
    except OSError as error:
        raise DataError(f"cannot write {job.folder}: {error.strerror or error}") from None


def _run(
    job: Job, todo: list[Part], workers: int | None, say: Progress
) -> tuple[list[ShardPart], list[Exclusion]]:
    """Do every part, here or in worker processes."""
    count = min(_processes(todo) if workers is None else workers, max(1, len(todo)))
    made: list[ShardPart] = []
    damaged: list[Exclusion] = []
    watch = _Watch(len(todo), say)

    def take(result: ShardPart | Exclusion) -> None:
        (damaged if isinstance(result, Exclusion) else made).append(result)  # type: ignore[arg-type]
        watch.add(result)

    if count == 1:
        tokenizer = _loaded(job)
        for part in todo:
            take(tokenize_part(job, part, tokenizer))
    elif todo:
        _run_in_processes(job, todo, count, take)
    return made, damaged


def _run_in_processes(
    job: Job, todo: list[Part], count: int, take: Callable[[ShardPart | Exclusion], None]
) -> None:
    """A pool of fresh processes, each with one thread of its own tokenizer; the largest parts first."""
    context = multiprocessing.get_context("spawn")
    queue = sorted(todo, key=_size, reverse=True)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(job,)) as pool:
        waiting: set[Future[ShardPart | Exclusion]] = set()
        try:
            while queue or waiting:
                while queue and len(waiting) < 2 * count:
                    waiting.add(pool.submit(_do_part, queue.pop(0)))
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    take(future.result())
        except BrokenProcessPool:
            raise DataError(
                "a tokenizing process was killed (out of memory?): call again with fewer --workers; finished parts "
                "are kept"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


_JOB: list[Job] = []
"""The job of a worker process."""


def _start_worker(job: Job) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes share out the cores already
    os.environ["RAYON_NUM_THREADS"] = "1"
    _JOB[:] = [job]
    _loaded(job)


def _do_part(part: Part) -> ShardPart | Exclusion:
    return tokenize_part(_JOB[0], part, _loaded(_JOB[0]))


def _size(part: Part) -> int:
    """Bytes to read, as far as they are known beforehand."""
    return sum(
        (piece.end_byte if piece.end_byte is not None else piece.file.num_bytes) - piece.first_byte
        for piece in part.files
    )


def _processes(todo: list[Part]) -> int:
    """One per core, and not more than the text is worth; a data set of unknown size is taken to be large."""
    if any(part.hub is not None for part in todo):
        return _cores()
    return max(1, min(_cores(), sum(map(_size, todo)) // BYTES_PER_PROCESS))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Watch:
    """Says now and then how far it is."""

    def __init__(self, count: int, say: Progress) -> None:
        self._count, self._say, self._done, self._tokens = count, say, 0, 0
        self._started = self._said = time.monotonic()

    def add(self, result: ShardPart | Exclusion) -> None:
        self._done += 1
        if isinstance(result, ShardPart):
            self._tokens += result.train_tokens + result.val_tokens
        now = time.monotonic()
        if now - self._said > PROGRESS_EVERY_S or self._done == self._count:
            self._said = now
            rate = self._tokens / max(now - self._started, 1e-9)
            self._say(
                f"{self._done} of {self._count} parts, {self._tokens:,} tokens, {rate / 1e6:.2f}M tokens/s"
            )


def _finish(
    job: Job, source: str, parts: tuple[Part, ...], tokenizer: Tokenizer, damaged: list[Exclusion]
) -> ShardSet | None:
    """Write the index when every part of the text is there; None while some are missing."""
    bad = {item.what for item in damaged}
    found = [_done(job, part) for part in parts if part.where not in bad]
    made = [item for item in found if item is not None]
    if len(made) < len(found):
        return None
    if not any(item.train_tokens for item in made):
        raise DataError(f"no readable text in {source!r}")
    index = ShardSet(
        source=source,
        tokenizer=job.tokenizer_name,
        tokenizer_sha256=job.tokenizer_sha256,
        vocab_size=tokenizer.vocab_size,
        end_token=tokenizer.end_token,
        begin_token=job.begin_token,
        held_out_one_in=job.held_out_one_in,
        parts=tuple(made),
    )
    with filelock.FileLock(job.folder / ".lock"):
        write_atomic(job.folder / INDEX, encode(index, indent=1))
    return index
