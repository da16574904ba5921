"""Set-up of a run: from its spec to the things that a step needs, on a device.

The one place where an objective's name becomes a function (`isoflop.refs.resolve`), also in a spawned
worker, and where net, precision and device are joined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import nn

from isoflop.data import (
    Corpus,
    DataError,
    TrainingWindows,
    ValidationWindows,
    open_corpus,
    validation_windows,
)
from isoflop.model.build import build_net
from isoflop.records import DataSource, Measurement, RunSpec
from isoflop.refs import resolve
from isoflop.train import schedule
from isoflop.train.optim import AdamW
from isoflop.train.step import Objective

Score = Callable[[nn.Module, ValidationWindows, RunSpec, int], Measurement]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, ready to step.

    Attributes:
        spec: the run.
        net: on the device, with the weights of step 0.
        optimizer: over the net's parameters, with empty moments.
        objective: what a step minimises.
        windows: training samples by global index.
        device: where it runs.
        generator: for the objective's own sampling; seeded anew for each step.
        autocast: makes the precision context of a step, or None for fp32.
        score: called as score(net, windows, spec, step); None for a run that is not scored.
        held_out: what it is scored on; None for a run that is not scored.
        also_held_out: the further texts of `EvalSpec.sources`, each scored likewise.
    """

    spec: RunSpec
    net: nn.Module
    optimizer: AdamW
    objective: Objective
    windows: TrainingWindows
    device: torch.device
    generator: torch.Generator
    autocast: Callable[[], contextlib.AbstractContextManager[object]] | None
    score: Score | None
    held_out: ValidationWindows | None
    also_held_out: tuple[ValidationWindows, ...] = ()

    def scores(self, step: int) -> tuple[Measurement, ...]:
        """Score the net as it is, in its run's precision: one measurement per text of `EvalSpec.sources`, in order."""
        assert self.score is not None, "a run without an EvalSpec is not scored"
        assert self.held_out is not None, "a run that is scored has held-out text"
        assert self.spec.evaluate is not None, "as above"
        name_of = self.spec.evaluate.name_of
        with self.precision():
            found = [
                self.score(self.net, windows, self.spec, step)
                for windows in (self.held_out, *self.also_held_out)
            ]
        return tuple(
            msgspec.structs.replace(one, name=name_of(index)) if index else one
            for index, one in enumerate(found)
        )

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a forward pass has the run's precision."""
        return contextlib.nullcontext() if self.autocast is None else self.autocast()

    def updates_behind(self, step: int) -> int:
        """Updates that the optimizer has seen at a step: fewer than the step for a branch with an empty one."""
        branch = self.spec.branch
        return step - branch.step if branch is not None and branch.weights_only else step

    def seed_step(self, step: int) -> torch.Generator:
        """The generator of one step: a function of (seed, step), so that a resumed run needs no state of it."""
        mixed = (self.spec.seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        mixed ^= mixed >> 31  # the CPU's generator keeps the low 32 bits of a seed
        return self.generator.manual_seed(mixed & (2**63 - 1))


def build_job(spec: RunSpec, corpora: Sequence[Corpus], device: str = "cpu") -> Job:
    """Build net, optimizer, data order and functions of a run.

    Args:
        spec: the run; one with a `command` is not built here (see `isoflop.train.command`).
        corpora: one opened corpus per source of `spec.data`, in the same order.
        device: "cpu" or "cuda".

    Raises:
        RefError: the objective or the score has changed since the run was planned.
        DataError, ValueError: the parts of the spec do not fit together.
    """
    schedule.check(spec.schedule)
    if spec.data.context > spec.net.context:
        raise ValueError(
            f"{spec.name}: sequences of {spec.data.context} tokens are longer than the net's context "
            f"({spec.net.context})"
        )
    for corpus in corpora:
        if corpus.record.vocab_size > spec.net.vocab_size:
            raise ValueError(
                f"{spec.name}: the tokenizer of {corpus.record.source!r} has {corpus.record.vocab_size} tokens, "
                f"the net a vocabulary of {spec.net.vocab_size}; give the net at least as many"
            )
    held_out = held_out_windows(spec, corpora)
    place = torch.device(device)
    net = build_net(spec.net, torch.Generator().manual_seed(spec.seed)).to(place)
    evaluate = spec.evaluate
    return Job(
        spec=spec,
        net=net,
        optimizer=AdamW(net, spec.optimizer),
        objective=resolve(spec.objective),
        windows=TrainingWindows(spec.data, corpora),
        device=place,
        generator=torch.Generator(place),
        autocast=(lambda: torch.autocast(place.type, torch.bfloat16)) if spec.precision == "bf16" else None,
        score=None if evaluate is None else resolve(evaluate.function),
        held_out=held_out[0] if held_out else None,
        also_held_out=held_out[1:],
    )


def held_out_windows(spec: RunSpec, corpora: Sequence[Corpus]) -> tuple[ValidationWindows, ...]:
    """The windows of each text that a run is scored on; none for a run that is not scored.

    Args:
        spec: the run.
        corpora: its training corpora; other texts of `EvalSpec.sources` are opened here.

    Raises DataError for a text that cannot be had, is too short, or is tokenized in another way.
    """
    if spec.evaluate is None:
        return ()
    scored = [corpora[0]] if not spec.evaluate.sources else [_open(s, corpora) for s in spec.evaluate.sources]
    own = corpora[0].record
    for corpus in scored:
        if corpus.record.tokenizer_sha256 != own.tokenizer_sha256:
            raise DataError(
                f"{spec.name} is scored on {corpus.record.source!r} in {corpus.record.tokenizer}, and trained in "
                f"{own.tokenizer}: prepare both with one tokenizer"
            )
    return tuple(
        validation_windows(corpus, spec.data.context, spec.evaluate.num_windows) for corpus in scored
    )


def _open(source: DataSource, corpora: Sequence[Corpus]) -> Corpus:
    """The corpus of a source: one of those at hand, or opened."""
    for corpus in corpora:
        record = corpus.record
        if (record.corpus_sha256, record.tokenizer_sha256) == (source.corpus_sha256, source.tokenizer_sha256):
            return corpus
    return open_corpus(source)
