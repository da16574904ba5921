"""Carry a recipe to a run: its text to shards, what has to fit before anything is spent, scores source by source.

    recipe -> text as token shards, one tokenizer -> weights, tokenizer and memory checked -> launch.json -> training

What the run is (its spec) is said by `isoflop.plan.recipe`; how it is trained, by `isoflop.train.distributed`,
in this process or in many. The verbs join the three.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch

from isoflop.data import Corpus, DataError, ValidationWindows, validation_windows
from isoflop.data import tokenizer as tokenizers
from isoflop.data.corpus import BPE_TRAINING_BYTES
from isoflop.data.documents import HELD_OUT_ONE_IN, STDLIB, Skips, find_source, read_documents
from isoflop.data.mixture import OpenMixture, open_mixture
from isoflop.data.shards import is_shard_folder
from isoflop.data.tokenize import BEGIN_TOKENS, tokenize
from isoflop.dist.mesh import World
from isoflop.dist.weights import CONFIG, TOKENIZER, WeightsError, open_weights
from isoflop.records import (
    Exclusion,
    Measurement,
    MixtureSource,
    NetSpec,
    Placement,
    Recipe,
    RunSpec,
    SourceScores,
)
from isoflop.refs import resolve
from isoflop.store import RunFolder, write_atomic
from isoflop.units import format_bytes

Say = Callable[[str], None]

SHAPE = ("vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_dim", "tied_head")
"""Fields of a net that its weights fix."""
EQUATIONS = ("rope_theta", "norm_eps")
"""Fields that do not show in a tensor's shape and yet make another function."""
MEMORY_SHARE = 0.9
"""Of what is free on this machine, what a run may take."""
MATMUL = 1024
"""Width of the matrix product that a processor's rate is measured with."""
SAMPLES_PER_FILE = 64
SAMPLE_BYTES = 4096


class RecipeRunError(RuntimeError):
    """What a recipe needs is not here, or does not fit; nothing has been spent."""


# ----------------------------------------------------------------------------------- text to shards


def open_text(
    recipe: Recipe,
    folder: Path,
    *,
    weights: Path | None = None,
    skip_damaged: bool = False,
    say: Say = lambda line: None,
) -> OpenMixture:
    """Open every source of a recipe; text that is at hand is tokenized into shards first, once.

    Args:
        recipe: what is read.
        folder: of the token shards, one folder per source.
        weights: a folder of Hugging Face weights that training starts from: their tokenizer serves all.
        skip_damaged: take damaged shards out of their index, on record, and damaged files out of a source.
        say: receives a line for each slow step.

    Raises:
        DataError: a source that is not here (with the command that makes it), damaged shards, text that
            cannot be read, sources in different tokenizers, too little text.
        WeightsError: the shards were made with another tokenizer than the weights'.
        ValueError: weights of the mixture that sum to 0, or are no numbers of 0 or more.
    """
    sources = [source for source in recipe.mixture.sources if source.weight > 0]
    missing = [source for source in sources if not _is_made(source, folder) and _is_at_hand(source)]
    name = recipe.tokenizer
    if missing:
        tokenizer = _tokenizer(recipe, sources, folder, weights, say)
        name = str(tokenizer)
        begin = weights is not None and _has_begin(tokenizer)
        for source in missing:
            say(f"{source.name}: tokenizing {source.where}")
            tokenize(
                source.where,
                name,
                folder / source.name,
                begin=begin,
                held_out_one_in=HELD_OUT_ONE_IN,
                skip_damaged=skip_damaged,
            )
    opened = open_mixture(
        recipe.mixture,
        folder,
        tokenizer=name,
        context=recipe.context,
        order_seed=recipe.order_seed,
        skip_damaged=skip_damaged,
        progress=say,
    )
    _check_vocabulary(opened.corpora, recipe.net)
    if weights is not None:
        _check_same_tokenizer(opened.corpora[0], weights)
    return opened


def _is_made(source: MixtureSource, folder: Path) -> bool:
    return is_shard_folder(folder / source.name) or is_shard_folder(source.where)


def _is_at_hand(source: MixtureSource) -> bool:
    where = source.where.partition("#")[0]
    return where.startswith(STDLIB) or Path(where).exists()


def _tokenizer(
    recipe: Recipe, sources: Sequence[MixtureSource], folder: Path, weights: Path | None, say: Say
) -> Path:
    """The tokenizer.json for text that is tokenized here: the weights', the one in the folder, or a new one."""
    if weights is not None:
        path = weights / TOKENIZER
        if not path.is_file():
            raise WeightsError(
                f"{weights} holds no {TOKENIZER}: put the one there that the weights were trained with, or give "
                "shards that were made with it (--data)"
            )
        return path
    if not tokenizers.is_trained(recipe.tokenizer):
        return Path(recipe.tokenizer)
    path = folder / "tokenizer.json"
    if not path.is_file():
        largest = max(sources, key=lambda source: source.weight)
        say(f"training {recipe.tokenizer} on {largest.name} ({largest.where})")
        made = tokenizers.train_bpe(recipe.tokenizer, _texts(largest.where))
        assert made.json_text is not None
        write_atomic(path, made.json_text)
    return path


def _texts(where: str) -> Iterable[bytes]:
    """Training documents of a source, up to a number of bytes."""
    found, room = find_source(where), BPE_TRAINING_BYTES
    for document in read_documents(found, Skips()):
        if document.side == "train":
            room -= len(document.data)
            if room < 0:
                return
            yield document.data


def _has_begin(path: Path) -> bool:
    words = tokenizers.load(str(path)).backend.get_vocab(with_added_tokens=True)
    return any(token in words for token in BEGIN_TOKENS)


# -------------------------------------------------------------------------------- what has to fit


def check_weights(folder: Path, recipe: Recipe) -> str:
    """Refuse weights that the recipe's net cannot take. Returns what names them in the run's identity.

    That is a hash of config.json and of each file's size, header and evenly spaced samples: reading all of
    a large model would take minutes.

    Raises WeightsError: no such folder, files that are missing, cut short or damaged, another shape, or
    rotary positions and norms of another function.
    """
    if not folder.is_dir():
        raise WeightsError(f"no folder of weights at {folder}: give one with {CONFIG} and safetensors files")
    found = open_weights(folder)
    for fields, what in ((SHAPE, "is of another shape"), (EQUATIONS, "computes another function")):
        own = {name: (getattr(found.net, name), getattr(recipe.net, name)) for name in fields}
        wrong = [
            f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in own.items() if theirs != ours
        ]
        if wrong:
            raise WeightsError(
                f"the net in {folder} {what} than {recipe.name} at scale {recipe.scale}: {', '.join(wrong)}; "
                "change `net` in a copy of the recipe, or give its own weights"
            )
    if found.net.rope_scaling not in (recipe.net.rope_scaling, recipe.eval_rope_scaling):
        raise WeightsError(
            f"{folder / CONFIG} scales rotary positions by {found.net.rope_scaling}, the recipe by "
            f"{recipe.net.rope_scaling}; change rope_scaling in a copy of the recipe, or in {CONFIG}"
        )
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for path in sorted({entry.path for entry in found.entries.values()}):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            last = max(0, path.stat().st_size - SAMPLE_BYTES)
            for number in range(SAMPLES_PER_FILE):
                file.seek(last * number // (SAMPLES_PER_FILE - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _check_vocabulary(corpora: Sequence[Corpus], net: NetSpec) -> None:
    for corpus in corpora:
        if corpus.record.vocab_size > net.vocab_size:
            raise DataError(
                f"the tokenizer of {corpus.record.source} has {corpus.record.vocab_size:,} tokens, the net a "
                f"vocabulary of {net.vocab_size:,}: tokenize the text with the net's tokenizer"
            )


def _check_same_tokenizer(corpus: Corpus, weights: Path) -> None:
    """Refuse shards of another tokenizer than the weights'; how its file is laid out does not matter."""
    theirs, ours = weights / TOKENIZER, corpus.folder / "tokenizer.json"
    if not theirs.is_file():
        return
    if not ours.is_file() or _content(theirs) != _content(ours):
        raise WeightsError(
            f"{corpus.record.source} was tokenized with {corpus.record.tokenizer}, which is not the tokenizer of "
            f"{weights}: tokenize it with `--tokenizer {weights}`, or give other weights"
        )


def _content(path: Path) -> object:
    config = json.loads(path.read_text(encoding="utf-8"))
    return {name: config.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}


def check_device(placement: Placement, bytes_per_device: float) -> None:
    """Refuse a device that is not here, or has too little memory free for a step.

    Args:
        placement: where the run goes; its ranks on one machine share a processor's memory.
        bytes_per_device: at the peak of a step, as planned.

    Raises RecipeRunError with what is there and what to change.
    """
    if placement.device != "cpu" and not torch.cuda.is_available():
        raise RecipeRunError(
            f"the recipe is placed on {placement.device}, and no GPU is seen here; run it where there is one, "
            "take --scale cpu, or change `placement` in a copy of the recipe"
        )
    ranks = placement.devices_per_node if placement.device == "cpu" else 1
    needed, free = ranks * bytes_per_device, free_memory(placement.device)
    if needed > MEMORY_SHARE * free:
        raise RecipeRunError(
            f"too little memory: a step takes {format_bytes(needed)}, {format_bytes(free)} are free here; take a "
            f"smaller micro_batch_seqs (it is {placement.micro_batch_seqs}), recompute='full' or more devices in a "
            "copy of the recipe"
        )


def free_memory(device: str) -> float:
    """Bytes that can be had on this machine's processor, or on its first GPU."""
    if device != "cpu":
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


# ------------------------------------------------------------------------------------------ scores


class SourceScorer:
    """Scores a net on each source's held-out text, and writes that down. Every rank calls it alike.

    Sources that hold out no window are named with the reason. Every second score of the run is enough:
    a source costs as much as the run's own score.
    """

    def __init__(
        self, spec: RunSpec, folder: RunFolder, world: World, names: Sequence[str], corpora: Sequence[Corpus]
    ) -> None:
        """
        Args:
            spec: the run; its EvalSpec says how, and on how many windows of each source at most.
            folder: where source_scores.jsonl goes.
            world: the mesh.
            names: of the sources, in the order of `corpora`.
            corpora: opened.
        """
        assert spec.evaluate is not None, "a run without an EvalSpec is not scored"
        self._spec, self._folder, self._world = spec, folder, world
        self._score = resolve(spec.evaluate.function)
        self._windows: dict[str, ValidationWindows] = {}
        self._without: list[Exclusion] = []
        for name, corpus in zip(names, corpora, strict=True):
            count = min(spec.evaluate.num_windows, held_out_windows(corpus, spec.data.context))
            if count == 0:
                few = f"{len(corpus.val):,} held-out tokens are no window of {spec.data.context:,}"
                self._without.append(Exclusion(what=name, reason=few))
            else:
                self._windows[name] = validation_windows(corpus, spec.data.context, count)

    def __call__(self, net: torch.nn.Module, step: int) -> None:
        """Score at a step, unless it is one of those between."""
        if not self._is_due(step):
            return
        scores = tuple(self._one(net, name, windows, step) for name, windows in self._windows.items())
        (memory,) = self._world.largest(peak_memory(self._world.device))
        rate = matmul_rate() if self._world.device.type == "cpu" and self._world.is_first else None
        made = SourceScores(
            step=step,
            scores=scores,
            without=tuple(self._without),
            peak_memory_bytes=memory,
            matmul_flops_per_s=rate,
        )

        def write() -> None:
            before = [one for one in self._folder.read_source_scores() if one.step < step]
            self._folder.write_source_scores((*before, made))

        self._world.from_first(write)

    def _is_due(self, step: int) -> bool:
        assert self._spec.evaluate is not None
        every = self._spec.evaluate.every_steps
        ends = (0, self._spec.num_steps)
        return step in ends or every is None or (step // every) % 2 == 0

    def _one(self, net: torch.nn.Module, name: str, windows: ValidationWindows, step: int) -> Measurement:
        score: Measurement = self._score(net, windows, self._spec, step)
        return msgspec.structs.replace(score, name=name)


def held_out_windows(corpus: Corpus, context: int) -> int:
    """Windows of so many predicted tokens that a corpus holds out."""
    return max(0, (len(corpus.val) - 1) // context)


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held on its device so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def matmul_rate(repeats: int = 8) -> float:
    """FLOP/s of this process's dense matrix product in fp32: the best of some, so that a pause does not count."""
    left, right = torch.ones(MATMUL, MATMUL), torch.ones(MATMUL, MATMUL)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2.0 * MATMUL**3 / best


def threads_per_rank() -> int:
    """Threads that a rank on a processor computes with: OMP_NUM_THREADS, else its share of the cores."""
    given = os.environ.get("OMP_NUM_THREADS")
    if given:
        return int(given)
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
