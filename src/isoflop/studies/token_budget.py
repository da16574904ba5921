"""How many tokens are an hour of video and a novel, and what does attention over them cost?

Claim P8.3: an hour of video and a long novel both come to a few million tokens, near what contexts will soon
hold, while the eye samples a scene about a hundred times finer than image models do.
Prediction: the hour of video is right, the novel is at the low edge of its stated range, the eye is right for
one common input size and short of it for another.
Command: ``isoflop run token_budget``. Cost: none.
"""

from __future__ import annotations

from dataclasses import dataclass

from isoflop import units
from isoflop.records import Column, Estimate, Evidence, Statement, Table, Verdict
from isoflop.studies.study import Study

QUESTION = "Do an hour of video and a long novel come to a few million tokens?"

TOKENS_PER_SECOND_OF_VIDEO = 4 * 16 * 16
"""One common video tokenizer: four latent frames a second, each a grid of 16 by 16 (TATS-like)."""
NOVEL_WORDS = 350_000
"""Anna Karenina in English, about."""
TOKENS_PER_WORD = (1.3, 1.5)
"""Usual range of byte-pair encodings on English prose."""
CLAIMED_NOVEL_TOKENS, CLAIMED_WITHIN = 1e6, 2.0
CLAIMED_VIDEO_TOKENS = 4e6
RETINA_CONES = 6e6
"""Cones of one human retina, about (Curcio et al. 1990: 4 to 5 million on average; 6 is the usual textbook figure)."""
IMAGE_SIDES = {"310 x 256": 310 * 256, "224 x 224": 224 * 224}
CLAIMED_EYE_FACTOR = 100.0


@dataclass(frozen=True, kw_only=True)
class Context:
    """A decoder that reads a whole context at once."""

    num_layers: int
    dim: int
    kv_dim: int
    """Width of keys (and of values) per token: key-value heads times head size."""
    bytes_per_number: int = 2


def video_tokens(seconds: float) -> float:
    """Tokens of a video of that length."""
    return seconds * TOKENS_PER_SECOND_OF_VIDEO


def attention_flops(num_tokens: float, context: Context) -> float:
    """Forward FLOPs of all causal attention scores and weighted sums: 2 x 2 x L x d x T^2 / 2."""
    return 2.0 * context.num_layers * context.dim * num_tokens**2


def cache_bytes(num_tokens: float, context: Context) -> float:
    """Bytes of the keys and values of all tokens."""
    return 2.0 * context.num_layers * context.kv_dim * context.bytes_per_number * num_tokens


LLAMA_8B = Context(num_layers=32, dim=4096, kv_dim=1024)
"""Llama-3.1-8B: 32 layers, width 4096, eight key-value heads of 128 (public model config)."""


def judge(evidence: Evidence) -> Verdict:
    """Each number of the claim recomputed; supported when the claim's own ranges hold it."""
    hour = video_tokens(3600)
    novel = tuple(NOVEL_WORDS * ratio for ratio in TOKENS_PER_WORD)
    eye = {name: RETINA_CONES / pixels for name, pixels in IMAGE_SIDES.items()}
    low = CLAIMED_NOVEL_TOKENS / CLAIMED_WITHIN
    statements = (
        Statement(
            text="An hour of video is about four million tokens",
            outcome="supported" if abs(hour / CLAIMED_VIDEO_TOKENS - 1) < 0.1 else "contradicted",
            because=f"{TOKENS_PER_SECOND_OF_VIDEO:,} tokens a second make {hour / 1e6:.2f} million",
            estimate=Estimate(value=hour, unit="tokens", reason="a definition, not a measurement"),
        ),
        Statement(
            text="A novel such as Anna Karenina is a million tokens, give or take a factor of two",
            outcome="supported" if novel[0] >= low else "cannot tell" if novel[1] >= low else "contradicted",
            because=f"{NOVEL_WORDS:,} words make {novel[0] / 1e6:.2f} to {novel[1] / 1e6:.2f} million tokens; "
            f"the range starts at {low / 1e6:.1f}",
            estimate=Estimate(
                value=sum(novel) / 2,
                unit="tokens",
                lo=novel[0],
                hi=novel[1],
                level=0.95,
                method="usual range of tokens per word",
            ),
            settle="the tokenizer: count the text with it",
        ),
        Statement(
            text="The eye samples a scene about two orders of magnitude finer than image models",
            outcome="supported" if min(eye.values()) > CLAIMED_EYE_FACTOR / 2 else "contradicted",
            because="; ".join(f"{value:.0f} times at {name}" for name, value in eye.items()),
            estimate=Estimate(
                value=eye["224 x 224"],
                unit="factor",
                lo=min(eye.values()),
                hi=max(eye.values()),
                method="the two input sizes",
            ),
        ),
    )
    outcomes = {statement.outcome for statement in statements}
    sizes = {"novel": sum(novel) / 2, "hour of video": hour}
    return Verdict(
        study="token_budget",
        claims=("P8.3",),
        question=QUESTION,
        outcome=next(word for word in ("contradicted", "cannot tell", "supported") if word in outcomes),
        sentence=f"An hour of video is {hour / 1e6:.2f} million tokens; a long novel is {novel[0] / 1e6:.2f} to "
        f"{novel[1] / 1e6:.2f} million against a claimed range from {low / 1e6:.1f} million.",
        settle="counting the novel with a named tokenizer",
        statements=statements,
        effect=f"an hour of video takes {units.format_bytes(cache_bytes(hour, LLAMA_8B))} of keys and values in an 8B "
        "model",
        limits=(
            "One tokenizer for video; others differ by an order of magnitude either way.",
            "Cones count samples of the retina, not what leaves the eye: the optic nerve has about a million fibres.",
        ),
        tables=(_table(sizes),),
        summary={
            "video_tokens_per_hour": hour,
            "novel_tokens": list(novel),
            "eye_factor": eye,
            "cache_bytes_video_hour": cache_bytes(hour, LLAMA_8B),
            "attention_flops_video_hour": attention_flops(hour, LLAMA_8B),
        },
    )


def _table(sizes: dict[str, float]) -> Table:
    return Table(
        name="contexts",
        title="What a context costs in a decoder of 32 layers and width 4096",
        columns=(
            Column(name="what", title="what"),
            Column(name="tokens", title="tokens", format="{:.3g}"),
            Column(name="attention_flops", title="attention, forward", unit="FLOPs", format="{:.2g}"),
            Column(name="cache_gb", title="keys and values", unit="GB", format="{:.3g}"),
        ),
        rows=tuple(
            (name, tokens, attention_flops(tokens, LLAMA_8B), cache_bytes(tokens, LLAMA_8B) / 1e9)
            for name, tokens in sizes.items()
        ),
    )


STUDY = Study(
    name="token_budget",
    claims=("P8.3",),
    question=QUESTION,
    prediction="The video is right, the novel is at the low edge, the eye is right to within a factor of two.",
    cost="nothing is trained; an instant",
    judge=judge,
)
