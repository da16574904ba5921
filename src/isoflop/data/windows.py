"""The fixed windows on which every run is validated, so that runs can be compared in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.data.corpus import Corpus
from isoflop.data.documents import DataError
from isoflop.data.shards import read_windows


@dataclass(frozen=True, kw_only=True)
class ValidationWindows:
    """Held-out text, cut into windows."""

    tokens: npt.NDArray[np.int64]
    """[windows, context + 1]: positions 0 .. context - 1 are input, 1 .. context are predicted."""
    num_bytes: npt.NDArray[np.int64]
    """[windows] bytes of text of the predicted tokens; end tokens stand for none."""


def validation_windows(corpus: Corpus, context: int, num_windows: int) -> ValidationWindows:
    """Evenly spaced windows of the held-out text that do not overlap: the same for every run.

    Args:
        corpus: where the held-out text is.
        context: predicted tokens per window, >= 1.
        num_windows: how many, >= 1.

    Raises DataError when the held-out text is too short for so many.
    """
    if context < 1 or num_windows < 1:
        raise ValueError(f"{num_windows} windows of {context} tokens: both take 1 or more")
    available = (len(corpus.val) - 1) // context
    if available < num_windows:
        raise DataError(
            f"{num_windows} validation windows of {context} tokens need {num_windows * context + 1:,} held-out "
            f"tokens; {corpus.record.source!r} has {len(corpus.val):,}, enough for {max(0, available)} windows: "
            "give more text or ask for fewer"
        )
    starts = np.arange(num_windows, dtype=np.int64) * available // num_windows * context
    tokens = read_windows(corpus.val, starts, context + 1)
    return ValidationWindows(
        tokens=tokens, num_bytes=corpus.token_bytes[tokens[:, 1:]].sum(axis=1, dtype=np.int64)
    )
