"""Log-likelihoods and generation of our nets, against the plain definition; no other package needed."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from isoflop.data.tokenizer import bytes_tokenizer
from isoflop.model.build import build_net
from isoflop.records import NetSpec
from isoflop.subject.language_model import LanguageModel, Likelihood, Sampling
from isoflop.subject.text import TextCodec, TextError, corpus_codec

NET = NetSpec(
    vocab_size=256,
    context=24,
    dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=32,
    init_std=0.5,
)
TOLERANCE = 1e-4
"""Nats. Logits of size 10 are rounded to 1e-6 of it (fp32, 6e-8, a dozen operations one after the other): 1e-5 for
each of at most ten tokens."""


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return corpus_codec(bytes_tokenizer())


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest, codec: TextCodec) -> LanguageModel:
    spec = msgspec.structs.replace(NET, tied_head=request.param)
    net = build_net(spec, torch.Generator().manual_seed(1))
    return LanguageModel(name="test", net=net, text=codec, context=NET.context, batch_tokens=64)


def by_hand(model: LanguageModel, context: list[int], continuation: list[int]) -> Likelihood:
    """One sequence at a time, whole logits, the last `context` tokens."""
    tokens = (context + continuation)[-(model.context + 1) :]
    with torch.no_grad():
        shares = torch.log_softmax(model.net(torch.tensor([tokens[:-1]]))[0].double(), dim=-1)
    own = shares[-len(continuation) :]
    targets = torch.tensor(continuation)
    return Likelihood(
        float(own.gather(1, targets[:, None]).sum()), bool((own.argmax(dim=-1) == targets).all())
    )


def pairs() -> list[tuple[list[int], list[int]]]:
    """Contexts of many lengths, some too long; several one-token answers after one context; a repeat."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda count: torch.randint(1, 256, (count,), generator=generator).tolist()  # noqa: E731
    asked = [(draw(1 + 5 * index % 40), draw(1 + index % 10)) for index in range(30)]
    shared = draw(9)
    return [*asked, *((shared, [answer]) for answer in (3, 4, 5)), (shared, draw(4)), asked[0]]


def test_batches_give_what_single_sequences_give(model: LanguageModel) -> None:
    asked = pairs()
    greedy = int(model.net(torch.tensor([asked[-2][0]]))[0, -1].argmax())
    asked.append((asked[-2][0], [greedy]))
    found = model.log_likelihoods(asked)
    for (context, continuation), one in zip(asked, found, strict=True):
        expected = by_hand(model, context, continuation)
        assert one.log_likelihood == pytest.approx(expected.log_likelihood, abs=TOLERANCE)
        assert one.is_greedy == expected.is_greedy
    assert found[-1].is_greedy
    assert not all(one.is_greedy for one in found)


def test_answers_do_not_depend_on_the_batch(model: LanguageModel) -> None:
    asked = pairs()
    whole = model.log_likelihoods(asked)
    alone = [model.log_likelihoods([one])[0] for one in asked]
    fixed = LanguageModel(
        name="fixed", net=model.net, text=model.text, context=model.context, fixed_shape=(4, 24)
    ).log_likelihoods(asked)
    for a, b, c in zip(whole, alone, fixed, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=TOLERANCE)
        assert a.log_likelihood == pytest.approx(c.log_likelihood, abs=TOLERANCE)


def test_one_token_answers_after_one_context_sum_to_one(model: LanguageModel) -> None:
    found = model.log_likelihoods([([7, 8, 9], [token]) for token in range(256)])
    assert math.fsum(math.exp(one.log_likelihood) for one in found) == pytest.approx(1.0, abs=1e-5)


def test_a_net_is_left_as_it_was(model: LanguageModel) -> None:
    """Training goes on afterwards: mode, position tables, gradients."""
    model.net.train()
    tokens = torch.randint(256, (2, 11), generator=torch.Generator().manual_seed(0))
    model.net.next_token_loss(tokens).backward()
    before = {name: parameter.grad.clone() for name, parameter in model.net.named_parameters()}
    tables = set(model.net._rotary)
    model.log_likelihoods(pairs())
    model.generate([[1, 2, 3]], max_tokens=5)
    assert model.net.training
    assert set(model.net._rotary) == tables
    model.net.zero_grad()
    model.net.next_token_loss(tokens).backward()
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in model.net.named_parameters())


def test_requests_that_cannot_be_scored_are_refused(model: LanguageModel) -> None:
    with pytest.raises(TextError, match=r"25 tokens is longer than the model's context of 24"):
        model.log_likelihoods([([1], list(range(1, 26)))])
    for empty in (([], [1]), ([1], [])):
        with pytest.raises(TextError, match="without a token"):
            model.log_likelihoods([empty])
    with pytest.raises(TextError, match="leave no room"):
        model.generate([[1]], max_tokens=24)


# ------------------------------------------------------------------------------------ generation


def greedy_by_hand(model: LanguageModel, context: list[int], count: int) -> list[int]:
    tokens = context[-(model.context - count) :]
    start = len(tokens)
    for _ in range(count):
        with torch.no_grad():
            token = int(model.net(torch.tensor([tokens]))[0, -1].argmax())
        if token == model.text.end_token:
            break
        tokens = [*tokens, token]
    return tokens[start:]


def test_the_likeliest_tokens_are_taken_up_to_a_stop(model: LanguageModel) -> None:
    contexts = [[5 + index] * (1 + 3 * index) for index in range(8)]
    found = model.generate(contexts, max_tokens=10)
    expected = [model.text.decode(greedy_by_hand(model, one, 10)) for one in contexts]
    assert found == expected
    stop = next(text for text in expected if len(text) > 3)[2]
    stopped = model.generate(contexts, max_tokens=10, until=[stop])
    assert stopped == [text.split(stop)[0] for text in expected]
    assert stopped != expected


@pytest.mark.slow
def test_draws_are_those_of_the_seed_and_follow_the_probabilities(model: LanguageModel) -> None:
    contexts = [[65, 66]] * 400
    sampling = Sampling(temperature=1.0, top_k=3, seed=3)
    found = model.generate(contexts, max_tokens=1, sampling=sampling)
    assert found == model.generate(contexts, max_tokens=1, sampling=sampling)
    assert found[:5] == model.generate(contexts[:5], max_tokens=1, sampling=sampling)
    assert found != model.generate(
        contexts, max_tokens=1, sampling=Sampling(temperature=1.0, top_k=3, seed=4)
    )
    with torch.no_grad():
        shares = torch.softmax(model.net(torch.tensor([[65, 66]]))[0, -1], dim=-1)
    top = shares.topk(3)
    texts = [model.text.decode([int(token)]) if int(token) else "" for token in top.indices]
    assert set(found) <= set(texts)
    for text, share in zip(texts, (top.values / top.values.sum()).tolist(), strict=True):
        # 400 draws: four standard errors of a share
        error = 4 * math.sqrt(share * (1 - share) / 400)
        if texts.count(text) == 1:
            assert found.count(text) / 400 == pytest.approx(share, abs=error)
    one = model.generate(contexts[:20], max_tokens=1, sampling=Sampling(temperature=1.0, top_p=1e-6))
    assert set(one) == {texts[0]}
