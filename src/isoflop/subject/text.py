"""Text to token ids and back, as one model was trained to see them, and its chat template.

A `TextCodec` is made from the tokenizer files of a folder of weights, or from the tokenizer of a training
corpus. It follows what transformers 5 does with the same files, without importing it: tokenizer.json alone
says which tokens are put before a text ("add_bos_token" of its config does not count), and chat templates are
filled in alike. Special tokens that a text spells out are read as such, for chat templates are made of them.
The tokenizer of `isoflop.data` does the opposite, because training text must not be able to end a document.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.data.tokenizer import Tokenizer
from isoflop.dist.weights import CONFIG, TOKENIZER, WeightsError

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"


class TextError(ValueError):
    """Tokenizer files or a request about text that cannot be used; the message says what and the remedy."""


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """Encodes and decodes text.

    Attributes:
        name: for records, in words.
        vocab_size: one more than the largest id.
        prefix_token: id that stands before a text without context: the beginning of a sequence if there is
            such a token, else the end of the text before.
        end_token: id that ends a text.
        bos_text: how the first token of a sequence is spelled; None when the model has none.
        eos_text: how the end token is spelled; None when it cannot be.
        backend: a `tokenizers.Tokenizer`; None for bytes.
        chat_template: Jinja text; None when the model has none.
    """

    name: str
    vocab_size: int
    prefix_token: int
    end_token: int
    bos_text: str | None = None
    eos_text: str | None = None
    backend: Any = None
    chat_template: str | None = None

    @property
    def prefix_text(self) -> str:
        """How the prefix token is spelled."""
        return self.decode([self.prefix_token], skip_special=False)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text; with `special` also the tokens that tokenizer.json puts around it."""
        if self.backend is None:
            return list(text.encode())
        ids: list[int] = self.backend.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become the replacement character."""
        if self.backend is None:
            return bytes(token for token in ids if token or not skip_special).decode(errors="replace")
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def fill_in_chat(self, messages: Sequence[Mapping[str, str]], *, ask: bool = True) -> str:
        """A conversation as the model was trained to see it.

        Args:
            messages: {"role", "content"} in order.
            ask: end with what precedes an answer; else with the last message's own text, to be gone on with.

        Raises TextError for a model without a template, or a conversation that its template refuses.
        """
        if self.chat_template is None:
            raise TextError(f"{self.name} has no chat template; score it without one")
        filled = _render(
            self.chat_template, messages, ask, self.bos_text or "", self.eos_text or "", self.name
        )
        if ask:
            return filled
        last = messages[-1]["content"].strip()
        at = filled.rfind(last)
        if at < 0:
            raise TextError(f"the chat template of {self.name} does not keep the last message as it is")
        return filled[: at + len(last)]


def corpus_codec(tokenizer: Tokenizer) -> TextCodec:
    """The codec of a model that was trained here: documents end with a token, and nothing precedes them.

    Raises TextError when the tokenizer has no token that ends a document.
    """
    if tokenizer.end_token is None:
        raise TextError(
            f"the tokenizer {tokenizer.name} has no token that ends a document, to score without context"
        )
    backend = None
    if tokenizer.json_text is not None:
        backend = _read_backend(tokenizer.json_text, tokenizer.name)
    return TextCodec(
        name=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        prefix_token=tokenizer.end_token,
        end_token=tokenizer.end_token,
        eos_text=None if backend is None else backend.id_to_token(tokenizer.end_token),
        backend=backend,
    )


def folder_codec(folder: Path) -> TextCodec:
    """The codec of a folder of Hugging Face weights, from its tokenizer files.

    Raises WeightsError when there is no tokenizer.json, TextError when it names no token that ends a text.
    """
    path = folder / TOKENIZER
    if not path.exists():
        raise WeightsError(
            f"{folder} holds no {TOKENIZER}; give the folder or file of the tokenizer that the weights were trained "
            "with"
        )
    backend = _read_backend(path.read_text(encoding="utf-8"), str(path))
    settings, config = _json(folder / TOKENIZER_CONFIG), _json(folder / CONFIG)
    generation = _json(folder / GENERATION_CONFIG)
    bos = _special(
        backend, settings.get("bos_token"), config.get("bos_token_id"), generation.get("bos_token_id")
    )
    eos = _special(
        backend, settings.get("eos_token"), config.get("eos_token_id"), generation.get("eos_token_id")
    )
    if eos is None:
        raise TextError(
            f'{folder}: neither {TOKENIZER_CONFIG} ("eos_token") nor {CONFIG} ("eos_token_id") names a token of '
            f"{TOKENIZER} that ends a text; add one of them"
        )
    return TextCodec(
        name=str(folder),
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        prefix_token=eos if bos is None else bos,
        end_token=eos,
        bos_text=None if bos is None else backend.id_to_token(bos),
        eos_text=backend.id_to_token(eos),
        backend=backend,
        chat_template=_chat_template(folder, settings),
    )


def _read_backend(text: str, where: str) -> Any:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise TextError(f"{where} is no tokenizer.json that the tokenizers library reads: {error}") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TextError(f"{path} is not valid JSON ({error}); the download may be incomplete") from None
    return content if isinstance(content, dict) else {}


def _special(backend: Any, spelled: Any, *ids: Any) -> int | None:
    """Id of a special token: by its spelling, else the first of the ids that configs name."""
    text = spelled.get("content") if isinstance(spelled, dict) else spelled
    found: int | None = backend.token_to_id(text) if isinstance(text, str) else None
    for given in ids:
        first = given[0] if isinstance(given, list) and given else given
        if found is None and isinstance(first, int) and backend.id_to_token(first) is not None:
            found = first
    return found


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / CHAT_TEMPLATE
    if path.exists():
        return path.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    return found if isinstance(found, str) else None


def _render(
    template: str, messages: Sequence[Mapping[str, str]], ask: bool, bos: str, eos: str, name: str
) -> str:
    """Fill in a template as transformers does: sandboxed, blocks trimmed, JSON not escaped for HTML."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=ask,
            bos_token=bos,
            eos_token=eos,
        )
    except TemplateError as error:
        raise TextError(f"the chat template of {name} refuses the conversation: {error}") from None
