"""Weights in and out: what transformers writes is read, what is written transformers reads, and bad files
are refused before anything is computed."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from isoflop.dist import mesh, weights
from isoflop.dist.weights import WeightsError, open_weights, read_spec, save_weights, to_config
from isoflop.model.build import build_net
from isoflop.records import MeshSpec, NetSpec, RopeScaling
from isoflop.store import StoreError
from tests.dist.conftest import Session
from tests.dist.runs import NET

SCALED = msgspec.structs.replace(
    NET,
    norm_eps=1e-5,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8),
)
"""Llama-3.1's rule, with an original context so short that all three of its ranges occur at 16 positions."""
TIED = msgspec.structs.replace(SCALED, tied_head=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of a seed in several files, with a tokenizer."""
    return written(SCALED, tmp_path / "weights")


def written(spec: NetSpec, folder: Path, **options: Any) -> Path:
    net = build_net(spec, torch.Generator().manual_seed(3))
    save_weights(net, spec, folder, mesh.join(MeshSpec()), **{"shard_bytes": 30_000, **options})
    (folder / "tokenizer.json").write_text(tokenizer_of(spec.vocab_size))
    return folder


def tokenizer_of(num_tokens: int) -> str:
    """As a byte-level BPE writes it, with the last token added outside the vocabulary."""
    vocabulary = {f"t{index}": index for index in range(num_tokens - 1)}
    added = [{"id": num_tokens - 1, "content": "<end>", "special": True}]
    return json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added})


# --------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("spec", [NET, SCALED, TIED], ids=["plain", "scaled", "tied"])
def test_weights_come_back_as_they_went(spec: NetSpec, tmp_path: Path) -> None:
    folder = written(spec, tmp_path / "weights")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = open_weights(folder)
    assert found.net == spec
    net = build_net(found.net, torch.Generator().manual_seed(4))
    found.load_into(net)
    original = build_net(spec, torch.Generator().manual_seed(3))
    for (name, a), (_, b) in zip(net.named_parameters(), original.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_one_small_file_needs_no_index(tmp_path: Path) -> None:
    folder = written(NET, tmp_path / "weights", shard_bytes=10**9)
    assert (folder / weights.SINGLE).exists()
    assert not (folder / weights.INDEX).exists()
    assert open_weights(folder).net == NET


def test_weights_are_rounded_only_when_asked(tmp_path: Path) -> None:
    folder = written(NET, tmp_path / "weights", shard_bytes=10**9, dtype=torch.bfloat16)
    net = build_net(NET, torch.Generator().manual_seed(4))
    open_weights(folder).load_into(net)
    original = build_net(NET, torch.Generator().manual_seed(3))
    for a, b in zip(net.parameters(), original.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b.to(torch.bfloat16).float())


def test_tokenizer_files_and_token_ids_are_taken_over(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "bos_token_id": 5, "eos_token_id": [6, 7]}))
    (folder / "generation_config.json").write_text("{}")
    out = written(SCALED, tmp_path / "out", like=folder)
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == [6, 7]
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == 5
    assert (out / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert (out / "generation_config.json").exists()


@pytest.mark.slow
def test_every_mesh_loads_and_writes_the_same_weights(four: Session) -> None:
    """Written from 1x2x2 by parts, read by parts onto other meshes: equal to the bit, on every rank."""
    original = build_net(NET, torch.Generator().manual_seed(0))
    expected = dict(original.named_parameters())
    for seen in four.seen:
        for text in ("1x4x1", "2x1x2", "4x1x1", "1x1x4"):
            found = seen.values[f"{text} weights"]
            assert set(found) == set(expected)
            assert all(torch.equal(found[name], expected[name]) for name in expected), text
    alone = build_net(NET, torch.Generator().manual_seed(9))
    open_weights(four.root / "weights").load_into(alone)
    assert all(torch.equal(p, expected[name]) for name, p in alone.named_parameters())


# ------------------------------------------------------------------------------------ config.json


def test_configs_of_both_generations_are_read() -> None:
    """transformers 4 keeps theta and scaling apart, transformers 5 in rope_parameters."""
    config = to_config(SCALED)
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    new = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    assert read_spec(old) == read_spec(new) == read_spec(config) == SCALED
    plain = {key: value for key, value in to_config(NET).items() if key != "rope_parameters"}
    assert read_spec(plain) == NET


def test_what_an_old_config_leaves_out_has_the_family_s_default() -> None:
    config = to_config(msgspec.structs.replace(NET, num_kv_heads=8))
    for name in ("head_dim", "num_key_value_heads", "rope_theta", "rope_parameters", "tie_word_embeddings"):
        config.pop(name)
    config["hidden_size"] = 64
    found = read_spec(config)
    assert (found.head_dim, found.num_kv_heads, found.rope_theta, found.tied_head) == (8, 8, 10_000.0, False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scaled by 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled by 'linear'"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_other_families_are_refused(changed: dict[str, Any], words: str) -> None:
    config = {**to_config(NET), **changed}
    if changed == {"hidden_size": None}:
        config.pop("hidden_size")
    with pytest.raises(WeightsError, match=words):
        read_spec(config)


# -------------------------------------------------------------------------------------- bad files


def test_a_file_that_was_cut_short_is_named_with_its_sizes(folder: Path) -> None:
    path = sorted(folder.glob("model-*"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(
        WeightsError, match=rf"{path.name} is cut short: {len(whole) - 1000} of {len(whole)} bytes"
    ):
        open_weights(folder)
    for size in (0, 4, 100):  # within the header
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=rf"{path.name} is cut short or damaged"):
            open_weights(folder)
    path.write_bytes(struct.pack("<Q", 2**40) + whole[8:])
    with pytest.raises(WeightsError, match=path.name):
        open_weights(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    path = sorted(folder.glob("model-*"))[0]
    path.unlink()
    with pytest.raises(WeightsError, match=rf"{path.name} is missing"):
        open_weights(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json: No such file"):
        open_weights(tmp_path)
    for path in [*folder.glob("model*")]:
        path.unlink()
    with pytest.raises(WeightsError, match=r"neither model\.safetensors nor"):
        open_weights(folder)
    (folder / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(WeightsError, match="not valid JSON"):
        open_weights(folder)


def test_a_tensor_of_another_shape_is_named_with_both(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 70}))
    with pytest.raises(WeightsError, match=r"'model.layers.0.mlp.gate_proj.weight' is 68x24, .* 70x24"):
        open_weights(folder)


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    folder = written(NET, tmp_path / "weights", shard_bytes=10**9)
    tensors = load_file(folder / weights.SINGLE)
    held = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / weights.SINGLE)
    with pytest.raises(WeightsError, match=r"holds no 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        open_weights(folder)
    tensors["model.layers.1.mlp.up_proj.weight"] = held
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # old files carry such tables
    save_file(tensors, folder / weights.SINGLE)
    assert open_weights(folder).net == NET
    tensors["model.layers.1.self_attn.q_norm.weight"] = torch.ones(8)
    save_file(tensors, folder / weights.SINGLE)
    with pytest.raises(WeightsError, match=r"q_norm.*another family"):
        open_weights(folder)


def test_an_untied_net_needs_its_head(tmp_path: Path) -> None:
    folder = written(TIED, tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(WeightsError, match=r"holds no 'lm_head\.weight'"):
        open_weights(folder)


def test_a_tokenizer_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text(tokenizer_of(NET.vocab_size))  # as many as rows: fits
    assert open_weights(folder).net == SCALED
    (folder / "tokenizer.json").write_text(tokenizer_of(NET.vocab_size + 1))
    with pytest.raises(WeightsError, match=r"token ids up to 100, the embedding has 100 rows"):
        open_weights(folder)
    with pytest.raises(WeightsError, match="token ids up to 100"):
        written(SCALED, tmp_path / "out", like=folder)
    assert not list(tmp_path.glob("*out*"))
    unigram = {"model": {"vocab": [["a", 0.0]] * 101}}
    (folder / "tokenizer.json").write_text(json.dumps(unigram))
    with pytest.raises(WeightsError, match="token ids up to 100"):
        open_weights(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="no vocabulary"):
        open_weights(folder)


def test_a_net_of_another_shape_is_refused_before_anything_is_read(folder: Path) -> None:
    found = open_weights(folder)
    wider = build_net(msgspec.structs.replace(SCALED, ffn_dim=72), torch.Generator().manual_seed(1))
    before = [p.clone() for p in wider.parameters()]
    with pytest.raises(WeightsError, match="different models"):
        found.load_into(wider)
    deeper = build_net(msgspec.structs.replace(SCALED, num_layers=3), torch.Generator().manual_seed(1))
    with pytest.raises(WeightsError, match=r"holds no 'model\.layers\.2"):
        found.load_into(deeper)
    assert all(torch.equal(a, b) for a, b in zip(before, wider.parameters(), strict=True))


def test_an_existing_folder_is_not_overwritten(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match="exists already"):
        written(SCALED, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ----------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


def logits_of(transformers: Any, folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model(tokens).logits.clone()


@pytest.mark.slow
@pytest.mark.parametrize("spec", [NET, SCALED, TIED], ids=["plain", "scaled", "tied"])
def test_transformers_reads_what_is_written_with_equal_logits(
    spec: NetSpec, tmp_path: Path, transformers: Any
) -> None:
    """fp32 logits of size 1 after two blocks: rounding of some 1e-6; the promise is 1e-5."""
    folder = written(spec, tmp_path / "weights")
    (folder / "tokenizer.json").unlink()
    tokens = torch.randint(spec.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    net = build_net(spec, torch.Generator().manual_seed(4))
    open_weights(folder).load_into(net)
    with torch.no_grad():
        ours = net(tokens)
    theirs = logits_of(transformers, folder, tokens)
    assert float(theirs.abs().max()) > 0.05
    assert float((ours - theirs).abs().max()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_transformers_writes_is_read_with_equal_logits(
    tied: bool, tmp_path: Path, transformers: Any
) -> None:
    """A model that transformers built and saved, in several files, with Llama-3.1's rotary scaling."""
    config = transformers.LlamaConfig(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "in", max_shard_size="50KB")
    found = open_weights(tmp_path / "in")
    assert len({entry.path for entry in found.entries.values()}) > 1
    assert (found.net.tied_head, found.net.rope_theta) == (tied, 500_000.0)
    assert found.net.rope_scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16
    )
    net = build_net(found.net, torch.Generator().manual_seed(4))
    found.load_into(net)
    tokens = torch.randint(90, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = net(tokens)
    theirs = logits_of(transformers, tmp_path / "in", tokens)
    assert float(theirs.abs().max()) > 1
    assert float((ours - theirs).abs().max()) < 1e-5
    save_weights(net, found.net, tmp_path / "out", mesh.join(MeshSpec()), like=tmp_path / "in")
    assert torch.equal(logits_of(transformers, tmp_path / "out", tokens), theirs)


def test_a_copy_of_a_folder_is_as_good(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert open_weights(tmp_path / "copy").net == SCALED
