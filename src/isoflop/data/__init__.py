"""Corpora as streams of token ids: found, split, tokenized, cached, and put in order. No torch."""

from isoflop.data.corpus import Corpus, check_epochs, default_cache_dir, epochs_of, open_corpus, prepare
from isoflop.data.documents import DataError
from isoflop.data.order import TrainingWindows
from isoflop.data.windows import ValidationWindows, validation_windows

__all__ = [
    "Corpus",
    "DataError",
    "TrainingWindows",
    "ValidationWindows",
    "check_epochs",
    "default_cache_dir",
    "epochs_of",
    "open_corpus",
    "prepare",
    "validation_windows",
]
