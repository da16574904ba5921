"""From a place on disk to a subject: a run folder, one of its checkpoints, or a folder of Hugging Face weights.

    RUN                          the run's final weights, or with `step` the state after so many updates
    RUN/checkpoint/step-0000100  one state
    FOLDER/config.json, …        weights of the Llama family in Hugging Face's files

One process holds the whole net. Weights are loaded in the precision in which they are stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isoflop.data import open_corpus
from isoflop.data.tokenizer import bytes_tokenizer
from isoflop.data.tokenizer import load as load_tokenizer
from isoflop.dist import states
from isoflop.dist.checkpoint import MODEL, STATE, CheckpointError, read_folder
from isoflop.dist.sharded_checkpoint import read_whole
from isoflop.dist.weights import CONFIG, TOKENIZER, WeightsError, open_weights
from isoflop.model.build import FAMILIES
from isoflop.records import NetSpec, RunSpec
from isoflop.store import RunFolder
from isoflop.subject.language_model import BATCH_TOKENS, LanguageModel
from isoflop.subject.text import TextCodec, TextError, corpus_codec, folder_codec

DATA = "data"
"""Where an output folder keeps the text that was prepared for it, and its tokenizer."""

FINAL = "final"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that can be asked, and where it is from.

    Attributes:
        model: the net with its tokenizer.
        dtype: precision of its weights, e.g. "float32".
        run: the run's folder; None for weights that no run here has made.
        spec: the run's spec; None likewise.
        step: updates behind the weights; None likewise.
    """

    model: LanguageModel
    dtype: str
    run: RunFolder | None = None
    spec: RunSpec | None = None
    step: int | None = None


def open_subject(
    place: Path | str,
    *,
    tokenizer: Path | str | None = None,
    step: int | None = None,
    device: str = "cpu",
    batch_tokens: int = BATCH_TOKENS,
) -> Subject:
    """Load a model.

    Args:
        place: see above.
        tokenizer: a folder with tokenizer files, a tokenizer.json or "bytes", instead of the model's own.
        step: of a run folder, the state after so many updates instead of the final weights.
        device: "cpu" or "cuda".
        batch_tokens: tokens of a batch when it is asked, padding included.

    Raises:
        WeightsError: no weights there, another family, damaged or missing files.
        CheckpointError: the run holds no such state, or it is damaged.
        TextError: a tokenizer that does not fit the weights.
    """
    place = Path(place)
    folder = _weights_folder(place, step)
    run = _run_of(place, folder)
    if (folder / CONFIG).exists():
        found = open_weights(folder)
        name = found.config.get("dtype") or found.config.get("torch_dtype") or "float32"
        dtype = getattr(torch, str(name), torch.float32)
        net = _empty(found.net, device, dtype)
        found.load_into(net)
        spec = found.net
    else:
        assert run is not None
        spec, dtype = run.read_spec().net, torch.float32
        net = _empty(spec, device, dtype)
        _load_state(net, folder)
    text = _codec(folder, run, tokenizer)
    check_fit(text, spec)
    model = LanguageModel(
        name=str(place), net=net, text=text, context=spec.context, batch_tokens=batch_tokens
    )
    return Subject(
        model=model,
        dtype=str(dtype).removeprefix("torch."),
        run=run,
        spec=None if run is None else run.read_spec(),
        step=None if run is None else _step_of(folder),
    )


def check_fit(text: TextCodec, net: NetSpec) -> None:
    """Raise TextError when a tokenizer has ids that the embedding has no row for."""
    if text.vocab_size > net.vocab_size:
        raise TextError(
            f"the tokenizer {text.name} has token ids up to {text.vocab_size - 1}, the embedding has "
            f"{net.vocab_size} rows; take the tokenizer that the weights were trained with"
        )


def find_codec(place: Path | str) -> TextCodec:
    """A codec by the place of its files: a folder with tokenizer files, a tokenizer.json, or "bytes"."""
    if str(place) == "bytes":
        return corpus_codec(bytes_tokenizer())
    path = Path(place)
    if path.is_dir():
        return folder_codec(path)
    if not path.is_file():
        raise TextError(f"no tokenizer at {path}: give a folder with {TOKENIZER}, a {TOKENIZER}, or bytes")
    return corpus_codec(load_tokenizer(str(path)))


def run_codec(spec: RunSpec) -> TextCodec:
    """The codec of the text that a run is trained on.

    Raises DataError when its corpus is not here, or not the same any more.
    """
    return corpus_codec(open_corpus(spec.data.sources[0]).load_tokenizer())


# ------------------------------------------------------------------------------------- where it is


def _weights_folder(place: Path, step: int | None) -> Path:
    if not place.exists():
        raise WeightsError(
            f"no model at {place}: give a run folder, a checkpoint, or a folder of Hugging Face weights"
        )
    if (place / "spec.json").exists():
        checkpoints = RunFolder(place).checkpoints
        folder = checkpoints / FINAL if step is None else states.folder_of(checkpoints, step)
        if not folder.is_dir():
            kept = ", ".join(str(one) for one in states.steps(checkpoints)) or "none"
            wanted = "final weights" if step is None else f"state after {step} updates"
            raise CheckpointError(f"{place} holds no {wanted}; the steps whose state it keeps: {kept}")
        return folder
    if step is not None:
        raise WeightsError(
            f"{place} is no run folder, so it has no state after {step} updates; leave the step out"
        )
    if not (place / CONFIG).exists() and not (place / STATE).exists():
        raise WeightsError(
            f"{place} holds no weights: neither {CONFIG} (Hugging Face), nor {STATE} (a checkpoint), nor spec.json "
            "(a run)"
        )
    return place


def _run_of(place: Path, folder: Path) -> RunFolder | None:
    """The run that a checkpoint belongs to: RUN/checkpoint/NAME."""
    if (place / "spec.json").exists():
        return RunFolder(place)
    candidate = folder.resolve().parent.parent
    if folder.resolve().parent.name == "checkpoint" and (candidate / "spec.json").exists():
        return RunFolder(candidate)
    if not (folder / CONFIG).exists():
        raise WeightsError(
            f"{folder} is a checkpoint outside its run's folder; its shape is in the run's spec.json"
        )
    return None


def _step_of(folder: Path) -> int | None:
    path = folder / STATE
    return int(json.loads(path.read_text())["step"]) if path.exists() else None


# ------------------------------------------------------------------------------------ what is in it


def _empty(spec: NetSpec, device: str, dtype: torch.dtype) -> nn.Module:
    """The net with memory but without values: nothing is drawn that will be overwritten."""
    with torch.device("meta"):
        net = FAMILIES[spec.family](spec, None)
    return net.to(dtype).to_empty(device=device)


def _load_state(net: nn.Module, folder: Path) -> None:
    tensors: dict[str, Any]
    tensors = read_folder(folder)[0][MODEL] if (folder / MODEL).exists() else read_whole(folder)
    wanted = dict(net.named_parameters())
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise CheckpointError(f"{folder} holds no {missing[0]!r}; it is not a state of the run's net")
    net.load_state_dict({name: tensors[name] for name in wanted})


def _codec(folder: Path, run: RunFolder | None, given: Path | str | None) -> TextCodec:
    if given is not None:
        return find_codec(given)
    if (folder / TOKENIZER).exists() or run is None:
        return folder_codec(folder)
    return _moved_codec(run) or run_codec(run.read_spec())


def _moved_codec(run: RunFolder) -> TextCodec | None:
    """The tokenizer that lies in its output folder, when it is the one that the run was trained with.

    The run names it by a path that may be relative to another place.
    """
    place = run.path.parent.parent / DATA / TOKENIZER
    if not place.is_file():
        return None
    found = load_tokenizer(str(place))
    return corpus_codec(found) if found.sha256 == run.read_spec().data.sources[0].tokenizer_sha256 else None
