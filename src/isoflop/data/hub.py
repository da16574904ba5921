"""Data sets and tokenizers of the Hugging Face hub, and data sets in its formats on disk.

    hf:OWNER/NAME[:CONFIG][@SPLIT][#FIELD]      streamed: rows are fetched as they are read
    hf:FOLDER[@SPLIT][#FIELD]                   saved by `datasets`' save_to_disk

A data set is read shard by shard, each of which is one part for `isoflop.data.tokenize`. The libraries
`datasets` and `huggingface_hub` are imported here alone, and only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.data import tokenizer as tokenizers
from isoflop.data.documents import DataError, Skips, row_document
from isoflop.data.tokenizer import Tokenizer

HF_PREFIX = "hf:"
ROWS_PER_PART = 100_000
"""A data set on disk is cut into parts of about so many rows."""


@dataclass(frozen=True, kw_only=True)
class HubPart:
    """One shard of a Hugging Face data set."""

    name: str
    config: str | None
    split: str
    index: int
    count: int
    text_field: str | None

    @property
    def where(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"{HF_PREFIX}{self.name}{config}@{self.split}[{self.index}/{self.count}]"


def load_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by the path of its file or folder, by its Hugging Face name, or "bytes".

    Raises ValueError for one that would have to be trained first ("bpe-N"), DataError for one that cannot
    be had.
    """
    if tokenizers.is_trained(name):
        raise ValueError(
            f"{name!r} would have to be trained on the text first: `isoflop data prepare SOURCE --tokenizer {name}` "
            "leaves a tokenizer.json to give here"
        )
    path = Path(name)
    if path.is_dir():
        path = path / "tokenizer.json"
    if name == "bytes" or path.is_file():
        return tokenizers.load(name, None if name == "bytes" else path.read_text(encoding="utf-8"))
    if name.count("/") != 1:
        raise ValueError(f"no tokenizer at {name}: give bytes, a tokenizer.json, its folder, or OWNER/NAME")
    try:
        import huggingface_hub
    except ImportError:
        raise DataError(
            f"{name} is fetched with huggingface_hub: pip install 'isoflop[hub]', or give a tokenizer.json"
        ) from None
    try:
        found = huggingface_hub.hf_hub_download(name, "tokenizer.json")
    except Exception as error:
        raise DataError(f"the tokenizer of {name} cannot be had: {first_line(error)}") from None
    return tokenizers.load(name, Path(found).read_text(encoding="utf-8"))


def hub_parts(source: str, text_field: str | None) -> tuple[HubPart, ...]:
    """The shards of a data set. Raises DataError when it cannot be opened."""
    name, config, split, named_field = parse_hub(source)
    rows = _open_hub(name, config, split)
    count = max(1, int(getattr(rows, "num_shards", 1)))
    return tuple(
        HubPart(
            name=name,
            config=config,
            split=split,
            index=index,
            count=count,
            text_field=text_field or named_field,
        )
        for index in range(count)
    )


def parse_hub(source: str) -> tuple[str, str | None, str, str | None]:
    """ "hf:OWNER/NAME:CONFIG@SPLIT#FIELD" -> its parts; config and field may be missing, the split is train."""
    body, _, text_field = source.removeprefix(HF_PREFIX).partition("#")
    body, _, split = body.partition("@")
    name, _, config = body.partition(":")
    if not name:
        raise DataError(f"{source!r} names no data set: write hf:OWNER/NAME[:CONFIG][@SPLIT][#FIELD]")
    return name, config or None, split or "train", text_field or None


def _open_hub(name: str, config: str | None, split: str) -> Any:
    """A streaming data set: fetched as it is read, or from a folder that `save_to_disk` made."""
    try:
        import datasets
    except ImportError:
        raise DataError("Hugging Face data sets need: pip install 'isoflop[hub]'") from None
    try:
        if Path(name).is_dir() and any(Path(name).glob("**/dataset_info.json")):
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, dict):
                loaded = loaded[split]
            return loaded.to_iterable_dataset(num_shards=max(1, len(loaded) // ROWS_PER_PART))
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        raise DataError(f"{HF_PREFIX}{name} cannot be opened: {first_line(error)}") from None


def read_hub(part: HubPart, skips: Skips) -> Iterator[tuple[str, bytes]]:
    """(key of the split, UTF-8 bytes) of each document of one shard; the rest goes into `skips`.

    Raises DataError when it cannot be opened, ValueError when it breaks off.
    """
    rows = iter(_shard_of(part))
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise ValueError(f"row {number}: {first_line(error)}") from error
        document = row_document(dict(row), f"{part.where}#{number}", part.text_field, skips)
        number += 1
        if document is not None:
            yield document


def _shard_of(part: HubPart) -> Any:
    rows = _open_hub(part.name, part.config, part.split)
    return rows.shard(num_shards=part.count, index=part.index) if part.count > 1 else rows


def first_line(error: BaseException) -> str:
    """The first line of an error, or its name when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
