"""Text to ids as transformers does it with the same files, and chat templates; errors say what is missing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from isoflop.data.tokenizer import bytes_tokenizer, train_bpe
from isoflop.dist.weights import WeightsError
from isoflop.subject.text import TextError, corpus_codec, folder_codec
from tests.subject import small_llama

TEXTS = ("", "def f(x):", " a  b\n", "Größe 😀", f"{small_llama.BOS}again", f"x{small_llama.EOS}y")
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " why? "}]


def test_bytes_are_their_own_ids() -> None:
    codec = corpus_codec(bytes_tokenizer())
    ids = codec.encode("Größe")
    assert ids == list("Größe".encode())
    assert codec.decode(ids) == "Größe"
    assert codec.decode([0, 65, 0]) == "A"
    assert (codec.prefix_token, codec.end_token) == (0, 0)


def test_a_tokenizer_trained_here_starts_after_the_end_of_a_document() -> None:
    codec = corpus_codec(train_bpe("bpe-300", [b"some text, and some more text"]))
    assert codec.prefix_token == codec.end_token == 0
    assert codec.prefix_text == codec.eos_text == "<|endoftext|>"
    assert codec.decode(codec.encode("some text")) == "some text"
    assert 0 not in codec.encode("some text")


@pytest.fixture(scope="module")
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.parametrize("leads", [True, False], ids=["own rule", "no rule"])
@pytest.mark.parametrize("setting", [None, True, False])
def test_ids_and_chats_are_those_of_transformers(
    tmp_path: Path, transformers: Any, leads: bool, setting: bool | None
) -> None:
    """Whether a first token is put is said by the tokenizer's own rule, whatever its config says beside it."""
    small_llama.save_tokenizer(tmp_path, leads=leads)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    if setting is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": setting}))
    ours = folder_codec(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)
    assert (ours.prefix_token, ours.end_token) == (theirs.bos_token_id, theirs.eos_token_id)
    expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ours.fill_in_chat(CHAT) == expected
    began = [*CHAT, {"role": "assistant", "content": "because"}]
    expected = theirs.apply_chat_template(
        began, tokenize=False, add_generation_prompt=False, continue_final_message=True
    )
    assert ours.fill_in_chat(began, ask=False) == expected


def plain_folder(folder: Path, **settings: Any) -> Path:
    """Tokenizer files without transformers."""
    tokenizer = train_bpe("bpe-300", [b"some text, and some more text"])
    assert tokenizer.json_text is not None
    (folder / "tokenizer.json").write_text(tokenizer.json_text)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_special_tokens_are_found_by_spelling_then_by_id(tmp_path: Path) -> None:
    end = {"content": "<|endoftext|>", "special": True}
    codec = folder_codec(plain_folder(tmp_path, eos_token=end))
    assert (codec.end_token, codec.prefix_token, codec.bos_text) == (0, 0, None)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TextError, match=r"names a token of tokenizer\.json that ends a text"):
        folder_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": [7, 9], "bos_token_id": 5}')
    codec = folder_codec(tmp_path)
    assert (codec.end_token, codec.prefix_token) == (7, 5)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json"):
        folder_codec(tmp_path)
    folder = plain_folder(tmp_path, eos_token="<|endoftext|>")
    with pytest.raises(TextError, match="no chat template"):
        folder_codec(folder).fill_in_chat(CHAT)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}")
    with pytest.raises(TextError, match="refuses the conversation: no system message"):
        folder_codec(folder).fill_in_chat(CHAT)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(TextError, match="not valid JSON"):
        folder_codec(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TextError, match=r"is no tokenizer\.json"):
        folder_codec(folder)
