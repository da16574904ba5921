"""Runs, their states and folders of weights become subjects with the weights and the tokenizer that they had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from isoflop.data import Corpus
from isoflop.data.tokenizer import load as load_tokenizer
from isoflop.dist import mesh
from isoflop.dist.checkpoint import CheckpointError, load, read_folder
from isoflop.dist.weights import WeightsError, save_weights
from isoflop.model.build import build_net
from isoflop.records import MeshSpec, RunSpec
from isoflop.store import RunFolder
from isoflop.subject import opening
from isoflop.subject.opening import open_subject
from isoflop.subject.text import TextError
from isoflop.train.run import train_run
from tests.train.conftest import NET, cache, corpus, make_spec, use_cache  # noqa: F401

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("use_cache")


@pytest.fixture
def run(make_spec: MakeSpec, corpus: Corpus, tmp_path: Path) -> RunFolder:  # noqa: F811
    folder = RunFolder(tmp_path / "run")
    train_run(make_spec(num_steps=12, save_at_steps=(6,)), folder, corpora=[corpus])
    return folder


def test_a_run_is_opened_at_its_end_or_at_a_state(run: RunFolder) -> None:
    opened = open_subject(run.path)
    final = read_folder(run.checkpoints / "final")[0]["model.safetensors"]
    assert all(torch.equal(value, final[name]) for name, value in opened.model.net.named_parameters())
    assert (opened.step, opened.dtype) == (12, "float32")
    assert opened.spec == run.read_spec()
    assert opened.model.text.name == "bytes"
    assert opened.model.context == NET.context
    state = open_subject(run.path, step=6)
    expected = load(run.checkpoints, 6).model
    assert all(torch.equal(value, expected[name]) for name, value in state.model.net.named_parameters())
    assert state.step == 6
    direct = open_subject(run.checkpoints / "step-00000006")
    assert direct.step == 6
    assert direct.spec == run.read_spec()


def test_what_a_run_does_not_hold_is_said(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no state after 7 updates; the steps whose state it keeps: 6"):
        open_subject(run.path, step=7)
    with pytest.raises(WeightsError, match="no model at"):
        open_subject(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no weights"):
        open_subject(tmp_path / "empty")
    with pytest.raises(WeightsError, match="no run folder"):
        open_subject(tmp_path / "empty", step=3)
    moved = tmp_path / "moved"
    (run.checkpoints / "step-00000006").rename(moved)
    with pytest.raises(WeightsError, match="outside its run's folder"):
        open_subject(moved)


def test_weights_need_their_tokenizer(run: RunFolder, tmp_path: Path) -> None:
    net = build_net(NET, torch.Generator().manual_seed(0))
    save_weights(net, NET, tmp_path / "weights", mesh.join(MeshSpec()), dtype=torch.bfloat16)
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json"):
        open_subject(tmp_path / "weights")
    opened = open_subject(tmp_path / "weights", tokenizer="bytes")
    assert (opened.dtype, opened.run, opened.step) == ("bfloat16", None, None)
    (found,) = opened.model.log_likelihoods([([1, 2], [3])])
    assert found.log_likelihood < 0
    with pytest.raises(TextError, match="no tokenizer at"):
        open_subject(tmp_path / "weights", tokenizer=tmp_path / "none.json")


def test_a_tokenizer_that_does_not_fit_is_refused(run: RunFolder, tmp_path: Path) -> None:
    from isoflop.data.tokenizer import train_bpe

    tokenizer = train_bpe("bpe-300", [b"some text, and some more text, and other words"])
    assert tokenizer.json_text is not None
    (tmp_path / "tokenizer.json").write_text(tokenizer.json_text)
    with pytest.raises(TextError, match=r"token ids up to 2\d\d, the embedding has 256 rows"):
        open_subject(run.path, tokenizer=tmp_path / "tokenizer.json")


def test_the_tokenizer_of_a_folder_that_was_moved_is_found_by_its_hash(
    make_spec: MakeSpec,  # noqa: F811
    tmp_path: Path,
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    built = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "<|endoftext|>": 2}, []))
    built.add_special_tokens(["<|endoftext|>"])
    place = tmp_path / "out" / "data" / "tokenizer.json"
    place.parent.mkdir(parents=True)
    built.save(str(place))
    spec = make_spec(num_steps=12)
    source = msgspec.structs.replace(
        spec.data.sources[0],
        tokenizer="elsewhere/tokenizer.json",
        tokenizer_sha256=load_tokenizer(str(place)).sha256,
    )
    data = msgspec.structs.replace(spec.data, sources=(source, *spec.data.sources[1:]))
    folder = RunFolder(tmp_path / "out" / "runs" / "one")
    folder.create(msgspec.structs.replace(spec, data=data))
    found = opening._moved_codec(folder)
    assert found is not None
    assert found.vocab_size == 3
    other = RunFolder(tmp_path / "out" / "runs" / "two")
    other.create(spec)
    assert opening._moved_codec(other) is None
