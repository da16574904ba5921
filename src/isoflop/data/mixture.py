"""From a recipe's mixture to corpora in one order, and what a run has read of each.

Every source is either a folder of token shards, under the recipe's data folder by its name, or text small
enough to be tokenized on the spot ("stdlib/...", a path). All share one tokenizer. Weights in rows become
shares of tokens by the mean length of the rows that are really there, because every training window has the
same number of tokens. The order of windows is `isoflop.data.order`; what weights mean before any text is
here, `isoflop.plan.mixture_account`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from isoflop.data.corpus import Corpus, open_shard_corpus, prepare
from isoflop.data.documents import STDLIB, DataError
from isoflop.data.order import TrainingWindows
from isoflop.data.shards import is_shard_folder, leave_out_damaged
from isoflop.data.tokenizer import is_trained
from isoflop.records import DataSource, DataSpec, Mixture, MixtureSource, Record

IntArray = npt.NDArray[np.int64]
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class OpenMixture:
    """A mixture whose text is here.

    Attributes:
        data: what a run's spec says about it.
        corpora: one per source of `data`, in the same order.
        names: the recipe's names of the sources.
        end_token: id that ends a document; None when the tokenizer has none.
    """

    data: DataSpec
    corpora: tuple[Corpus, ...]
    names: tuple[str, ...]
    end_token: int | None


class SourceReading(Record, frozen=True, kw_only=True):
    """What a run has read of one source."""

    name: str
    samples: int
    """Training windows."""
    tokens: int
    token_share: float
    """Of all that was read."""
    row_share: float
    """The same in documents, by the mean length of the source's."""
    epochs: float
    """Passes over the source's windows."""
    windows: int
    """Different windows that there are."""


def open_mixture(
    mixture: Mixture,
    folder: Path | str,
    *,
    tokenizer: str,
    context: int,
    order_seed: int,
    skip_damaged: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> OpenMixture:
    """Open every source with a weight.

    Args:
        mixture: sources and weights.
        folder: where token shards lie: FOLDER/<name of the source>.
        tokenizer: for text that is tokenized on the spot; "bpe-N" is trained on the source with the largest
            weight and serves all.
        context: tokens per training sequence.
        order_seed: of the order.
        skip_damaged: take damaged shards out of their folder's index, on record, instead of refusing.
        cache_dir, progress: as for `isoflop.data.prepare`.

    Raises:
        DataError: a source that is not here (with the command that makes it), damaged shards, sources in
            different tokenizers, too little text for one window.
        ValueError: weights that sum to 0, or that are not numbers of 0 or more.
    """
    sources = _weighted(mixture)
    opened: dict[str, Corpus] = {}
    for source in sources:
        path = _shards_of(source, Path(folder))
        if path is not None:
            if skip_damaged:
                leave_out_damaged(path)
            opened[source.name] = open_shard_corpus(path)
    shared = _tokenizer_of(opened, tokenizer)
    for source in sorted(sources, key=lambda one: -one.weight):
        if source.name in opened:
            continue
        _require_text(source, Path(folder), tokenizer)
        corpus = prepare(source.where, shared, cache_dir=cache_dir, progress=progress)
        opened[source.name] = corpus
        shared = _tokenizer_of(opened, shared)
    corpora = tuple(opened[source.name] for source in sources)
    data = data_spec(mixture, corpora, context=context, order_seed=order_seed)
    TrainingWindows(data, corpora)  # refuses what cannot be ordered, before anything is trained
    return OpenMixture(
        data=data,
        corpora=corpora,
        names=tuple(source.name for source in sources),
        end_token=corpora[0].load_tokenizer().end_token,
    )


def counted(mixture: Mixture, folder: Path | str) -> Mixture:
    """The mixture with the tokens and the mean row length that are really there, for sources with shards.

    Sources without shards keep the published counts. Raises DataError for damaged shards.
    """
    sources = []
    for source in mixture.sources:
        path = _shards_of(source, Path(folder))
        if path is not None:
            record = open_shard_corpus(path).record
            source = msgspec.structs.replace(
                source,
                tokens=float(record.train_tokens),
                tokens_per_row=record.train_tokens / max(1, record.num_train_files),
                note=f"counted in {path}",
            )
        sources.append(source)
    return msgspec.structs.replace(mixture, sources=tuple(sources))


def data_spec(mixture: Mixture, corpora: Sequence[Corpus], *, context: int, order_seed: int) -> DataSpec:
    """What a run's spec says about a mixture, given one corpus for each of its weighted sources."""
    sources: list[DataSource] = []
    for source, corpus in zip(_weighted(mixture), corpora, strict=True):
        sources.append(corpus.data_source(source.weight, mixture.weight_unit))
    return DataSpec(sources=tuple(sources), context=context, order_seed=order_seed)


def account(opened: OpenMixture, num_samples: int) -> tuple[SourceReading, ...]:
    """What the first `num_samples` samples of the order hold, source by source; exact, and at once."""
    windows = TrainingWindows(opened.data, opened.corpora)
    counts = [
        round(passes * count)
        for passes, count in zip(windows.epochs(num_samples), windows.windows_per_source, strict=True)
    ]
    rows = [
        count / (corpus.record.train_tokens / max(1, corpus.record.num_train_files))
        for count, corpus in zip(counts, opened.corpora, strict=True)
    ]
    return tuple(
        SourceReading(
            name=name,
            samples=count,
            tokens=count * opened.data.context,
            token_share=count / max(1, num_samples),
            row_share=row / (sum(rows) or 1.0),
            epochs=count / there,
            windows=there,
        )
        for name, count, row, there in zip(
            opened.names, counts, rows, windows.windows_per_source, strict=True
        )
    )


# ---------------------------------------------------------------------------------------- packing


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Which document each position of a batch belongs to.

    Attributes:
        document: int64 [B, T], counted from 0 within each sequence; attention stays within equal numbers.
        position: int64 [B, T], from 0 again at the start of each document.
        predicts: bool [B, T], False where the next token belongs to another document.
    """

    document: IntArray
    position: IntArray
    predicts: npt.NDArray[np.bool_]


def segments(tokens: IntArray, end_token: int | None) -> Segments:
    """The documents in a batch of windows, told apart by the token that ends each.

    Args:
        tokens: [B, T + 1]: positions 0 .. T - 1 are input, 1 .. T are predicted.
        end_token: id that ends a document.

    Raises DataError for a tokenizer without such a token.
    """
    if end_token is None:
        raise DataError("this tokenizer has no token that ends a document: documents cannot be kept apart")
    ends = tokens[:, :-1] == end_token
    document = np.cumsum(ends, axis=1) - ends  # an end token belongs to the document that it ends
    place = np.arange(ends.shape[1])
    first = np.zeros_like(ends)
    first[:, 1:] = ends[:, :-1]
    start = np.maximum.accumulate(np.where(first, place, 0), axis=1)
    return Segments(document=document.astype(np.int64), position=place - start, predicts=~ends)


# ----------------------------------------------------------------------------------------- pieces


def _weighted(mixture: Mixture) -> tuple[MixtureSource, ...]:
    for source in mixture.sources:
        if not 0 <= source.weight < float("inf"):
            raise ValueError(f"the weight of {source.name} is {source.weight}; it is a number of 0 or more")
    found = tuple(source for source in mixture.sources if source.weight > 0)
    if not found:
        raise ValueError("the weights of the mixture sum to 0; give one source a weight")
    return found


def _shards_of(source: MixtureSource, folder: Path) -> Path | None:
    """Where the source's token shards are, if they are made."""
    for path in (folder / source.name, Path(source.where)):
        if is_shard_folder(path):
            return path
    return None


def _tokenizer_of(opened: dict[str, Corpus], wanted: str) -> str:
    """The tokenizer for the next source: the one of those that are open already."""
    for corpus in opened.values():
        path = corpus.folder / "tokenizer.json"
        if path.is_file() and (is_trained(wanted) or not Path(wanted).is_file()):
            return str(path)
    return wanted


def _require_text(source: MixtureSource, folder: Path, tokenizer: str) -> None:
    """Refuse a source that has to be fetched or tokenized first, with the command that does it."""
    where = source.where.partition("#")[0]
    if where.startswith(STDLIB) or Path(where).exists():
        return
    raise DataError(
        f"{source.name} is not here: tokenize it first with `isoflop data tokenize '{source.where}' --tokenizer "
        f"{tokenizer} --out {folder / source.name}`"
    )
