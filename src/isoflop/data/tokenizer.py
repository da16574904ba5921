"""How bytes become token ids: plain bytes, a byte-level BPE trained here, or a tokenizer.json.

A `Tokenizer` turns texts into ids, and knows how many bytes of text each id stands for: bits per byte are
counted with that. Texts that happen to spell a special token are encoded as ordinary text. Files and
corpora are not known here.

Id 0 ends a document for "bytes" (a zero byte; documents hold none) and for "bpe-N" ("<|endoftext|>").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.data.documents import DataError

IntArray = npt.NDArray[np.int64]

END_OF_TEXT = "<|endoftext|>"
_END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
_SMALLEST_BPE = 257
_LARGEST_BPE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer, ready to encode."""

    name: str
    """As the user wrote it: "bytes", "bpe-512", or a path."""
    sha256: str
    vocab_size: int
    """One more than the largest id."""
    end_token: int | None
    """Id that follows each document; None when the tokenizer has no such token."""
    token_bytes: npt.NDArray[np.int32]
    """[vocab_size] bytes of text that each id stands for; 0 for special tokens."""
    json_text: str | None = None
    """The tokenizer.json; None for "bytes"."""
    backend: Any = None
    """The `tokenizers.Tokenizer`; None for "bytes"."""

    def encode(self, texts: Sequence[bytes]) -> list[IntArray]:
        """Token ids of each text, without end tokens. Texts are valid UTF-8."""
        if self.backend is None:
            return [np.frombuffer(text, dtype=np.uint8).astype(np.int64) for text in texts]
        encodings = self.backend.encode_batch_fast(
            [text.decode() for text in texts], add_special_tokens=False
        )
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def is_trained(name: str) -> bool:
    """True for a tokenizer that has to be trained on the corpus first: "bpe-N"."""
    return name.startswith("bpe-")


def check_name(name: str) -> None:
    """Raise ValueError for a name that is neither "bytes", "bpe-N" nor an existing file."""
    if name == "bytes":
        return
    if is_trained(name):
        size = name.removeprefix("bpe-")
        if not size.isdigit() or not _SMALLEST_BPE <= int(size) <= _LARGEST_BPE:
            raise ValueError(
                f"{name!r} is no tokenizer: a byte-level BPE takes {_SMALLEST_BPE} to {_LARGEST_BPE} tokens, "
                "e.g. bpe-512"
            )
        return
    if not Path(name).is_file():
        raise ValueError(f"{name!r} is no tokenizer: give bytes, bpe-N (e.g. bpe-512) or a tokenizer.json")


def bytes_tokenizer() -> Tokenizer:
    """One token per byte; id 0 ends a document. Vocabulary 256."""
    token_bytes = np.ones(256, dtype=np.int32)
    token_bytes[0] = 0
    return Tokenizer(
        name="bytes",
        sha256=hashlib.sha256(b"isoflop bytes/1: id = byte value, 0 ends a document").hexdigest(),
        vocab_size=256,
        end_token=0,
        token_bytes=token_bytes,
    )


def train_bpe(name: str, texts: Iterable[bytes]) -> Tokenizer:
    """Train a byte-level BPE ("bpe-N"): all 256 bytes, an end token with id 0, and merges up to N ids.

    Byte-level BPE as in Radford et al. 2019 (section 2.2), whose rule for cutting words it shares. The
    result depends on the texts alone. It has fewer than N ids when the texts hold too few pairs.
    """
    backends = _import_tokenizers()
    backend = backends.Tokenizer(backends.models.BPE(cache_capacity=100_000))
    backend.pre_tokenizer = backends.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = backends.decoders.ByteLevel()
    trainer = backends.trainers.BpeTrainer(
        vocab_size=int(name.removeprefix("bpe-")),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(backends.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((text.decode() for text in texts), trainer=trainer)
    return _from_json(name, backend.to_str())


def load(name: str, json_text: str | None = None) -> Tokenizer:
    """The tokenizer of that name, from its JSON when it has one, else from the file that the name is.

    Raises DataError for a file that is no tokenizer.json.
    """
    if name == "bytes":
        return bytes_tokenizer()
    text = Path(name).read_text(encoding="utf-8") if json_text is None else json_text
    return _from_json(name, text)


def _from_json(name: str, json_text: str) -> Tokenizer:
    backends = _import_tokenizers()
    try:
        backend = backends.Tokenizer.from_str(json_text)
        config = json.loads(json_text)
    except Exception as error:
        raise DataError(f"{name} is no tokenizer.json that the tokenizers library reads: {error}") from None
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise DataError(f"{name} holds no tokens")
    ends = [vocabulary[token] for token in _END_TOKENS if token in vocabulary]
    return Tokenizer(
        name=name,
        sha256=hashlib.sha256(json_text.encode()).hexdigest(),
        vocab_size=max(vocabulary.values()) + 1,
        end_token=ends[0] if ends else None,
        token_bytes=_bytes_per_token(vocabulary, config),
        json_text=json_text,
        backend=backend,
    )


def _bytes_per_token(vocabulary: dict[str, int], config: dict[str, Any]) -> npt.NDArray[np.int32]:
    """[vocab] bytes of text per id: exact for byte-level tokenizers, by the written form for others."""
    parts = json.dumps([config.get("pre_tokenizer"), config.get("decoder")])
    byte_level = '"ByteLevel"' in parts
    special = {token["content"] for token in config.get("added_tokens", []) if token.get("special")}
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
    for token, index in vocabulary.items():
        if token in special:
            continue
        if byte_level:
            lengths[index] = len(token)  # one printable character stands for one byte
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            lengths[index] = 1  # byte fallback of SentencePiece
        else:
            lengths[index] = len(token.removeprefix("##").replace("▁", " ").encode())
    return lengths


def _import_tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise DataError(
            "this tokenizer needs the tokenizers library: pip install 'isoflop[train]', "
            "or use the tokenizer bytes, which needs nothing"
        ) from None
    return tokenizers
