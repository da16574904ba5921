"""Weights in and out: any Llama-family checkpoint in Hugging Face's files, read and written by parts.

    FOLDER/{config.json, model.safetensors | model-0000i-of-0000n.safetensors + model.safetensors.index.json,
            tokenizer.json, …}

Our parameters have these files' names and layout, so nothing is renamed or permuted. Reading checks every
header first (names, shapes, whole files, a tokenizer that fits), then each rank takes its own slices; no
process holds a whole model. Writing gathers one parameter at a time. Other families, quantised weights and
files of the pickle kind are refused with a sentence.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isoflop.dist.mesh import World
from isoflop.dist.parallel import fill
from isoflop.records import NetSpec, RopeScaling
from isoflop.store import StoreError, write_atomic

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)
"""Files that belong to the text side of a model; they are copied as they are."""
KEPT_CONFIG = ("bos_token_id", "eos_token_id", "pad_token_id")
SHARD_BYTES = 5 * 10**9
NOT_WEIGHTS = ("rotary_emb.inv_freq",)
"""Tables that old checkpoints carry; they are computed here."""


class WeightsError(RuntimeError):
    """A folder of weights that cannot be used; the message says what is wrong, in which file."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies."""

    path: Path
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A folder of weights, checked; nothing of it is in memory yet.

    Attributes:
        folder: where it is.
        net: the shape that its config.json describes.
        config: the whole of config.json.
        entries: tensors by parameter name.
    """

    folder: Path
    net: NetSpec
    config: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def load_into(self, net: nn.Module) -> None:
        """Set each rank's part of each parameter, in the parameter's precision.

        Args:
            net: built from `net`, spread or whole; its context may differ.

        Raises WeightsError, before anything is read, for a parameter that the files lack or have in another
        shape.
        """
        for name, parameter in net.named_parameters():
            if name not in self.entries:
                raise WeightsError(f"{self.folder} holds no {name!r}; the net is of another shape")
            _check_shape(self.entries[name].path, name, self.entries[name].shape, tuple(parameter.shape))
        with contextlib.ExitStack() as held:
            files: dict[Path, Any] = {}

            def read(name: str, part: tuple[slice, ...]) -> Tensor:
                if any(piece.stop <= piece.start for piece in part):
                    return torch.empty([max(0, piece.stop - piece.start) for piece in part])
                path = self.entries[name].path
                if path not in files:
                    files[path] = held.enter_context(_open(path))
                values: Tensor = files[path].get_slice(name)[part]
                return values

            fill(net, read)


def open_weights(folder: Path | str) -> Weights:
    """Look at a folder of weights and check that it is whole and fits together.

    Raises WeightsError: no config.json or not one of a Llama; a safetensors file that is missing, cut short
    or damaged; a tensor that is missing, unknown or of another shape than config.json says; a tokenizer with
    more tokens than the embedding has rows.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    spec = read_spec(config, where=str(folder / CONFIG))
    entries = {name: entry for name, entry in _entries(folder).items() if not name.endswith(NOT_WEIGHTS)}
    expected = expected_shapes(spec)
    for name, shape in expected.items():
        if name not in entries:
            raise WeightsError(
                f"{folder} holds no {name!r}, which {CONFIG} asks for; the download may be incomplete"
            )
        _check_shape(entries[name].path, name, entries[name].shape, shape)
    unknown = sorted(set(entries) - set(expected) - {"lm_head.weight"})
    if unknown:
        raise WeightsError(
            f"{entries[unknown[0]].path} holds {unknown[0]!r}, which a Llama does not have; it is another family"
        )
    check_tokenizer(folder, spec.vocab_size)
    return Weights(folder=folder, net=spec, config=config, entries={name: entries[name] for name in expected})


def save_weights(
    net: nn.Module,
    spec: NetSpec,
    folder: Path,
    world: World,
    *,
    dtype: torch.dtype = torch.float32,
    like: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a net's weights in Hugging Face's files; all ranks call, the first one writes.

    Args:
        net: spread or whole.
        spec: its shape.
        folder: does not exist yet; it appears when it is whole.
        world: the mesh.
        dtype: of the files.
        like: a folder whose tokenizer files, and token ids in config.json, are taken over.
        shard_bytes: largest size of one file.

    Raises StoreError when the folder exists or cannot be written, WeightsError for a tokenizer that does not
    fit; on every rank.
    """
    parameters = dict(net.named_parameters())
    files = _cut(parameters, dtype, shard_bytes)
    partial = folder.with_name(f".{folder.name}.partial")
    problem: Exception | None = None

    def attempt(action: Any, *args: Any) -> None:
        """On the first rank, as long as nothing has failed: the others must go on taking part."""
        nonlocal problem
        if world.is_first and problem is None:
            try:
                action(*args)
            except (OSError, SafetensorError) as error:
                problem = StoreError(f"cannot write {folder}: {error}; free some space and export again")
            except (StoreError, WeightsError) as error:
                problem = error

    attempt(_start, folder, partial, spec, dtype, like)
    for file, names in files.items():
        values = {}
        for name in names:
            whole = _gather(parameters[name])
            if world.is_first:
                values[name] = whole.to("cpu", dtype).contiguous()
        attempt(save_file, values, partial / file, {"format": "pt"})
    attempt(_finish, folder, partial, files, parameters, dtype)
    if world.any(problem is not None):
        shutil.rmtree(partial, ignore_errors=True)
        raise problem or StoreError(f"the first rank could not write {folder}; its message says why")


def expected_shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of each parameter of a Llama."""
    inner, shared = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    block = {
        "input_layernorm": (spec.dim,),
        "self_attn.q_proj": (inner, spec.dim),
        "self_attn.k_proj": (shared, spec.dim),
        "self_attn.v_proj": (shared, spec.dim),
        "self_attn.o_proj": (spec.dim, inner),
        "post_attention_layernorm": (spec.dim,),
        "mlp.gate_proj": (spec.ffn_dim, spec.dim),
        "mlp.up_proj": (spec.ffn_dim, spec.dim),
        "mlp.down_proj": (spec.dim, spec.ffn_dim),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, spec.dim)}
    for layer in range(spec.num_layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (spec.dim,)
    if not spec.tied_head:
        shapes["lm_head.weight"] = (spec.vocab_size, spec.dim)
    return shapes


# ----------------------------------------------------------------------------------- config.json


def read_spec(config: Mapping[str, Any], *, where: str = CONFIG) -> NetSpec:
    """The shape that a Llama's config.json describes, in the form of transformers 4 or 5.

    Raises WeightsError for another family, or for a variant that our equations do not have.
    """
    family = config.get("model_type")
    if family != "llama":
        raise WeightsError(
            f"{where}: model_type is {family!r}; weights of the Llama family (llama) can be read"
        )
    for name, ours in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(name, ours) != ours:
            raise WeightsError(f"{where}: {name} is {config[name]!r}; this decoder has {ours!r}")
    if config.get("quantization_config"):
        raise WeightsError(f"{where}: the weights are quantised; take the original ones")
    try:
        dim, num_heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        return NetSpec(
            vocab_size=int(config["vocab_size"]),
            context=int(config.get("max_position_embeddings", 2048)),
            dim=dim,
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or dim // num_heads),
            ffn_dim=int(config["intermediate_size"]),
            tied_head=bool(config.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            rope_scaling=_read_scaling(rope, where),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            init_std=float(config.get("initializer_range", 0.02)),
        )
    except KeyError as error:
        raise WeightsError(f"{where} says no {error.args[0]!r}") from None


def _read_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise WeightsError(
            f"{where}: rotary positions are scaled by {kind!r}; known are none and Llama-3.1's 'llama3'"
        )
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=int(rope["original_max_position_embeddings"]),
    )


def to_config(
    spec: NetSpec, dtype: torch.dtype = torch.float32, like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """config.json of a net, readable by transformers 4 and 5.

    Args:
        spec: the shape.
        dtype: of the weights.
        like: another config.json, whose token ids are taken over.
    """
    scaling = spec.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    name = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.dim,
        "intermediate_size": spec.ffn_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.context,
        "initializer_range": spec.init_std,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_head,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_cache": True,
        "rope_theta": spec.rope_theta,
        "rope_scaling": rope if scaling is not None else None,
        "rope_parameters": {**rope, "rope_theta": spec.rope_theta},
        "dtype": name,
        "torch_dtype": name,
        **{key: like[key] for key in KEPT_CONFIG if like is not None and key in like},
    }


# ------------------------------------------------------------------------------------- tokenizer


def check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Raise WeightsError when a folder's tokenizer.json has ids that the embedding has no row for."""
    path = folder / TOKENIZER
    if not path.exists():
        return
    ids = _token_ids(_read_json(path), path)
    if ids and max(ids) >= vocab_size:
        raise WeightsError(
            f"{path} has token ids up to {max(ids)}, the embedding has {vocab_size} rows; take the tokenizer that "
            "the weights were trained with"
        )


def _token_ids(tokenizer: Mapping[str, Any], path: Path) -> list[int]:
    try:
        vocabulary = tokenizer["model"]["vocab"]
        known = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else list(range(len(vocabulary)))
        return [*known, *(token["id"] for token in tokenizer.get("added_tokens") or [])]
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} is no tokenizer.json: it has no vocabulary") from None


# ----------------------------------------------------------------------------------------- files


def _entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder, by name, from the headers of its files."""
    if (folder / INDEX).exists():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise WeightsError(f"{folder / INDEX} has no weight_map")
        paths = sorted({folder / file for file in weight_map.values()})
    elif (folder / SINGLE).exists():
        paths = [folder / SINGLE]
    else:
        raise WeightsError(
            f"{folder} holds neither {SINGLE} nor {INDEX}; weights in other formats (.bin, .pth, .gguf) must be "
            "saved as safetensors first"
        )
    entries: dict[str, Entry] = {}
    for path in paths:
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                entries[name] = Entry(path=path, shape=tuple(file.get_slice(name).get_shape()))
    return entries


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; the download may be incomplete") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is {_damage(path)} ({error}); download it again") from None
    with file as opened:
        yield opened


def _damage(path: Path) -> str:
    """Cut short, with the sizes, or damaged."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + header_bytes + max(ends, default=0)
    except (ValueError, struct.error, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        return "cut short or damaged"
    return f"cut short: {size} of {whole} bytes" if size < whole else "damaged"


def _check_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise WeightsError(
            f"{path}: {name!r} is {_words(found)}, but the net's is {_words(wanted)}; weights and shape belong to "
            "different models"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}); the download may be incomplete") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return content


def _words(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


# ---------------------------------------------------------------------------------------- export


def _cut(parameters: Mapping[str, Tensor], dtype: torch.dtype, limit: int) -> dict[str, list[str]]:
    """Names of the parameters of each file, in order."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, parameter in parameters.items():
        size = math.prod(parameter.shape) * dtype.itemsize
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    total = len(groups)
    return {f"model-{i + 1:05d}-of-{total:05d}.safetensors": names for i, names in enumerate(groups)}


def _gather(parameter: Tensor) -> Tensor:
    values = parameter.detach()
    return values.full_tensor() if isinstance(values, DTensor) else values


def _start(folder: Path, partial: Path, spec: NetSpec, dtype: torch.dtype, like: Path | None) -> None:
    """Make the folder with everything but the weights."""
    if folder.exists():
        raise StoreError(f"{folder} exists already; export to a new folder")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = None
    if like is not None:
        check_tokenizer(like, spec.vocab_size)
        config = _read_json(like / CONFIG) if (like / CONFIG).exists() else None
        for name in TOKENIZER_FILES:
            if (like / name).exists():
                shutil.copyfile(like / name, partial / name)
    write_atomic(partial / CONFIG, json.dumps(to_config(spec, dtype, config), indent=2))


def _finish(
    folder: Path,
    partial: Path,
    files: Mapping[str, list[str]],
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Write the index, and give the folder its name."""
    if len(files) > 1:
        total = sum(math.prod(p.shape) for p in parameters.values()) * dtype.itemsize
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        write_atomic(partial / INDEX, json.dumps(index, indent=2))
    partial.rename(folder)
