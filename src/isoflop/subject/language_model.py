"""Log-likelihoods of continuations and generated text from one of our nets, in batches.

    legend: B sequences of a batch, T positions, D width, V vocabulary, P scored positions of a batch

Inputs are sorted by length, so that little is padded; what is asked about the same input is computed once; the
head is applied at scored positions alone. A context that is too long loses its beginning, as everywhere in
this field. Generation computes the whole sequence again for each token: the decoder has no key-value cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoflop.dist.mesh import World
from isoflop.subject.text import TextCodec, TextError

BATCH_TOKENS = 8192
"""Tokens of a batch, padding included."""
LENGTH_STEP = 32
"""Lengths of batches are multiples of this, so that position tables and kernels are made for few of them."""
HEAD_ELEMENTS = 2**26
"""Logits that are in memory at once."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        log_likelihood: natural logarithm of its probability after its context, summed over its tokens.
        is_greedy: each of its tokens is the likeliest at its place.
    """

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn; the defaults take the likeliest.

    Attributes:
        temperature: 0 takes the likeliest token; else logits are divided by it.
        top_k: draw among so many; 0 among all.
        top_p: draw among the likeliest tokens that together have this probability.
        seed: of the draws; each text has draws of its own, whatever else is asked.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A net and its tokenizer, ready to be asked.

    Attributes:
        name: in words, for records.
        net: takes tokens [B, T] to logits [B, T, V]; spread over `world`, or whole.
        text: its tokenizer.
        context: positions that it sees at most.
        world: the mesh that the net is spread over; every rank asks alike and gets every answer. None for one.
        batch_tokens: tokens of a batch, padding included; at least one sequence.
        fixed_shape: (B, T) of every batch, for a net that is compiled for one shape; T is at least `context`.
    """

    name: str
    net: nn.Module
    text: TextCodec
    context: int
    world: World | None = None
    batch_tokens: int = BATCH_TOKENS
    fixed_shape: tuple[int, int] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def log_likelihoods(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress | None = None
    ) -> list[Likelihood]:
        """Score each continuation after its context.

        Args:
            pairs: token ids of (context, continuation). The first token of all is given, never scored; so the
                context holds at least one.
            progress: told (done, all) after each batch.

        Raises TextError for an empty part, or a continuation that is longer than the context of the model.
        """
        inputs = _group(pairs, self.context)
        found: dict[int, Likelihood] = {}
        batches = _cut(inputs, self._limit())
        with _asked(self.net):
            for index, batch in enumerate(self._share(batches)):
                found.update(self._score(batch))
                if progress is not None:
                    progress(min((index + 1) * self._num_parts(), len(batches)), len(batches))
        parts = [found] if self.world is None else self.world.gathered(found)
        merged = {key: value for part in parts for key, value in part.items()}
        return [merged[index] for index in range(len(pairs))]

    def generate(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        until: Sequence[str] = (),
        sampling: Sampling = Sampling(),
        progress: Progress | None = None,
    ) -> list[str]:
        """Go on from each context, to a stop text, the end token or `max_tokens`.

        Returns:
            The new text, cut before the first of the stop texts; special tokens are left out.

        Raises TextError when `max_tokens` leaves no room for a context.
        """
        room = self.context - max_tokens
        if room < 1:
            raise TextError(
                f"{max_tokens} new tokens leave no room for a prompt in a context of {self.context}; ask for fewer"
            )
        if any(not ids for ids in contexts):
            raise TextError("a prompt without a token; start it with the model's first token")
        inputs = [_Input(tuple(ids[-room:]), [_Question(i, ())]) for i, ids in enumerate(contexts)]
        batches = _cut(inputs, self._limit(), extra=max_tokens)
        found: dict[int, str] = {}
        with _asked(self.net):
            for index, batch in enumerate(self._share(batches)):
                found.update(self._continue(batch, max_tokens, tuple(until), sampling))
                if progress is not None:
                    progress(min((index + 1) * self._num_parts(), len(batches)), len(batches))
        parts = [found] if self.world is None else self.world.gathered(found)
        merged = {key: value for part in parts for key, value in part.items()}
        return [merged[index] for index in range(len(contexts))]

    # ---------------------------------------------------------------------------- over ranks

    def _num_parts(self) -> int:
        return 1 if self.world is None else self.world.mesh.data

    def _share(self, batches: list[list[_Input]]) -> Iterator[list[_Input]]:
        """This rank's batches: as many on every rank, since ranks that share weights must go together."""
        parts = self._num_parts()
        rank = 0 if self.world is None else self.world.data_rank
        for start in range(0, len(batches), parts):
            yield batches[min(start + rank, len(batches) - 1)]

    # ------------------------------------------------------------------------------- one batch

    def _limit(self) -> Callable[[int, int], bool]:
        """Whether so many sequences of such a length fit in one batch."""
        if self.fixed_shape is not None:
            rows, _ = self.fixed_shape
            return lambda count, length: count <= rows
        return lambda count, length: count == 1 or count * _rounded(length) <= self.batch_tokens

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Tokens [B, T], padded on the right: a causal net does not see what comes later."""
        length = _rounded(max(len(row) for row in rows))
        count = len(rows)
        if self.fixed_shape is not None:
            count, length = self.fixed_shape
        tokens = torch.zeros(count, length, dtype=torch.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
        return tokens.to(self.device)

    def _logits(self, tokens: Tensor, places: Tensor) -> Iterator[Tensor]:
        """fp32 logits at flat places [P] of tokens [B, T], in pieces [p, V]."""
        net = self.net
        if getattr(net, "call_blocks", True):  # wrapped: only a call runs its hooks
            logits_BTV = net(tokens)
            for piece in places.split(max(1, HEAD_ELEMENTS // logits_BTV.shape[-1])):
                yield logits_BTV.flatten(0, 1)[piece].float()
            return
        features_ND = net.features(tokens).flatten(0, 1)  # type: ignore[operator]
        head: Tensor = net.head  # type: ignore[assignment]
        for piece in places.split(max(1, HEAD_ELEMENTS // head.shape[0])):
            yield F.linear(features_ND[piece], head).float()

    def _score(self, batch: list[_Input]) -> dict[int, Likelihood]:
        tokens = self._pad([one.tokens for one in batch])
        width = tokens.shape[1]
        places: list[int] = []
        targets: list[int] = []
        owners: list[int] = []
        for row, one in enumerate(batch):
            for question in one.questions:
                first = len(one.tokens) - len(question.continuation)
                places += [row * width + first + offset for offset in range(len(question.continuation))]
                targets += question.continuation
                owners += [question.index] * len(question.continuation)
        nats, greedy = [], []
        wanted = torch.tensor(targets, device=tokens.device)
        done = 0
        for logits in self._logits(tokens, torch.tensor(places, device=tokens.device)):
            target = wanted[done : done + len(logits)]
            done += len(logits)
            nats.append(F.log_softmax(logits, dim=-1).gather(1, target[:, None])[:, 0])
            greedy.append(logits.argmax(dim=-1) == target)
        sums = dict.fromkeys(owners, 0.0)
        likeliest = dict.fromkeys(owners, True)
        for owner, value, is_greedy in zip(
            owners, torch.cat(nats).tolist(), torch.cat(greedy).tolist(), strict=True
        ):
            sums[owner] += value
            likeliest[owner] = likeliest[owner] and is_greedy
        return {owner: Likelihood(value, likeliest[owner]) for owner, value in sums.items()}

    def _continue(
        self, batch: list[_Input], max_tokens: int, until: tuple[str, ...], sampling: Sampling
    ) -> dict[int, str]:
        indices = [one.questions[0].index for one in batch]
        rows = [list(one.tokens) for one in batch]
        starts = [len(row) for row in rows]
        draws = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + index) for index in indices]
        open_rows = list(range(len(rows)))
        for _ in range(max_tokens):
            asked = open_rows or [0]  # a rank that is done goes along with the others
            tokens = self._pad([rows[i] for i in asked])
            width = tokens.shape[1]
            places = torch.tensor([at * width + len(rows[i]) - 1 for at, i in enumerate(asked)])
            logits = torch.cat(list(self._logits(tokens, places.to(tokens.device)))).cpu()
            still = []
            for i, scores in zip(open_rows, logits, strict=False):
                token = _draw(scores, sampling, draws[i])
                if token == self.text.end_token:
                    continue
                rows[i].append(token)
                text = self.text.decode(rows[i][starts[i] :])
                if not any(stop and stop in text for stop in until):
                    still.append(i)
            open_rows = still
            going = bool(still) if self.world is None else self.world.any(bool(still))
            if not going:
                break
        return {
            index: _before(self.text.decode(row[start:]), until)
            for index, row, start in zip(indices, rows, starts, strict=True)
        }


# ----------------------------------------------------------------------------------- small parts


@dataclass(frozen=True)
class _Question:
    index: int
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class _Input:
    """What the net reads, and all that is asked about it."""

    tokens: tuple[int, ...]
    questions: list[_Question]


def _group(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], context: int) -> list[_Input]:
    """Inputs without repeats: choices of one token after one context share theirs."""
    inputs: dict[tuple[int, ...], _Input] = {}
    for index, (before, continuation) in enumerate(pairs):
        if not before or not continuation:
            raise TextError("a context or a continuation without a token cannot be scored")
        if len(continuation) > context:
            raise TextError(
                f"a continuation of {len(continuation)} tokens is longer than the model's context of {context}; it "
                "cannot be scored in one piece"
            )
        tokens = (*before, *continuation)[-(context + 1) :][:-1]
        inputs.setdefault(tokens, _Input(tokens, [])).questions.append(_Question(index, tuple(continuation)))
    return list(inputs.values())


def _cut(inputs: list[_Input], fits: Callable[[int, int], bool], extra: int = 0) -> list[list[_Input]]:
    """Batches of inputs, the longest first: what does not fit in memory fails at once."""
    batches: list[list[_Input]] = []
    longest = 0
    for one in sorted(inputs, key=lambda one: (-len(one.tokens), one.tokens)):
        if batches and fits(len(batches[-1]) + 1, longest):
            batches[-1].append(one)
        else:
            batches.append([one])
            longest = len(one.tokens) + extra
    return batches


def _rounded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token of logits [V]."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    shares, order = torch.softmax(logits / sampling.temperature, dim=-1).sort(descending=True, stable=True)
    if sampling.top_k > 0:
        shares = shares[: sampling.top_k]
    before = shares.cumsum(0) - shares
    shares = shares[before < sampling.top_p]
    return int(order[torch.multinomial(shares, 1, generator=generator)])


def _before(text: str, until: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    return text[: min((at for stop in until if stop and (at := text.find(stop)) >= 0), default=len(text))]


@contextlib.contextmanager
def _asked(net: nn.Module) -> Iterator[None]:
    """Without gradients, in evaluation mode; afterwards the net is as it was.

    Not `torch.inference_mode`: position tables that are made in it could not be used in training later.
    """
    was_training = net.training
    tables = getattr(net, "_rotary", {})
    before = set(tables)
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(was_training)
        for key in set(tables) - before:
            del tables[key]
