"""Continued pretraining of Llama-3.1-8B on web text, code and mathematics, at three scales and in two variants.

`as_posted` copies the public run of github.com/eminorhan/frontier-torchtitan, 64 nodes with 512 devices,
its accidents included. `corrected` asks the same question without them. Both are functions of one argument:

    full            Llama-3.1-8B on 64 nodes
    gpu, 1b, 3b     Llama-3.2-1B or -3B on one H200; "gpu" is the 1B
    cpu             a million parameters on the standard library's text, minutes on two cores

`isoflop plan run recipes/llama3.1-8b-continual` says what a variant needs; README.md how to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isoflop.records import (
    Benchmark,
    MeshSpec,
    Mixture,
    MixtureSource,
    NetSpec,
    ObservedRun,
    Operations,
    OptimizerSpec,
    Placement,
    Recipe,
    RopeScaling,
    ScheduleSpec,
)

NAME = "llama3.1-8b-continual"
DONE = 73_500 / 500_000
"""Share of its planned steps that the posted run made."""

# ------------------------------------------------------------------------------------------- nets

LLAMA_3_1_SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
LLAMA_3_2_SCALING = RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
SMALL_SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=256)

LLAMA_3_1_8B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_dim=14_336,
    rope_theta=500_000.0,
    rope_scaling=LLAMA_3_1_SCALING,
)
LLAMA_3_2_3B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=3072,
    num_layers=28,
    num_heads=24,
    num_kv_heads=8,
    head_dim=128,
    ffn_dim=8192,
    tied_head=True,
    rope_theta=500_000.0,
    rope_scaling=LLAMA_3_2_SCALING,
)
LLAMA_3_2_1B = NetSpec(
    vocab_size=128_256,
    context=8192,
    dim=2048,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    ffn_dim=8192,
    tied_head=True,
    rope_theta=500_000.0,
    rope_scaling=LLAMA_3_2_SCALING,
)
SMALL = NetSpec(
    vocab_size=1024,
    context=256,
    dim=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    ffn_dim=384,
    rope_theta=500_000.0,
    rope_scaling=SMALL_SCALING,
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What changes with the size of the machine, and nothing else."""

    name: str
    net: NetSpec
    start_from: str | None
    tokenizer: str
    batch_seqs: int
    num_steps: int
    warmup_steps: int
    peak_lr: float
    placement: Placement
    operations: Operations
    stdlib: bool = False
    """Read parts of the standard library in place of the real sources."""


# ----------------------------------------------------------------------------------------- scales

SLURM_OPERATIONS = Operations(
    session_hours=24.0,
    queue_hours=10.0,
    startup_minutes=15.0,
    launch_success=0.9,
    node_mtbf_hours=50_000.0,
    checkpoint_every_steps=100,
    checkpoint_pause_s=10.0,
)
ONE_GPU_OPERATIONS = Operations(
    session_hours=24.0,
    queue_hours=0.0,
    startup_minutes=5.0,
    launch_success=1.0,
    node_mtbf_hours=5_000.0,
    checkpoint_every_steps=100,
    checkpoint_pause_s=2.0,
)
CPU_OPERATIONS = Operations(
    session_hours=24.0,
    queue_hours=0.0,
    startup_minutes=0.2,
    launch_success=1.0,
    node_mtbf_hours=50_000.0,
    checkpoint_every_steps=50,
    checkpoint_pause_s=0.2,
)
ONE_H200 = Placement(
    device="H200",
    num_nodes=1,
    devices_per_node=1,
    mesh=MeshSpec(),
    micro_batch_seqs=2,
    recompute="none",
)
POSTED_PLACEMENT = Placement(
    device="MI250X GCD",
    num_nodes=64,
    devices_per_node=8,
    mesh=MeshSpec(replicate=2, shard=32, tensor=8),
    micro_batch_seqs=21,
    recompute="full",
    reshard=False,
)
CORRECTED_PLACEMENT = Placement(
    device="MI250X GCD",
    num_nodes=64,
    devices_per_node=8,
    mesh=MeshSpec(replicate=8, shard=64),
    micro_batch_seqs=1,
    recompute="full",
)

FULL = Scale(
    name="full",
    net=LLAMA_3_1_8B,
    start_from="meta-llama/Llama-3.1-8B",
    tokenizer="meta-llama/Llama-3.1-8B",
    batch_seqs=1344,
    num_steps=500_000,
    warmup_steps=500,
    peak_lr=3e-5,
    placement=POSTED_PLACEMENT,
    operations=SLURM_OPERATIONS,
)
SCALES: dict[str, Scale] = {
    "full": FULL,
    "3b": Scale(
        name="3b",
        net=LLAMA_3_2_3B,
        start_from="meta-llama/Llama-3.2-3B",
        tokenizer="meta-llama/Llama-3.2-3B",
        batch_seqs=64,
        num_steps=4000,
        warmup_steps=100,
        peak_lr=3e-5,
        placement=Placement(
            device="H200",
            num_nodes=1,
            devices_per_node=1,
            mesh=MeshSpec(),
            micro_batch_seqs=1,
            recompute="none",
        ),
        operations=ONE_GPU_OPERATIONS,
    ),
    "1b": Scale(
        name="1b",
        net=LLAMA_3_2_1B,
        start_from="meta-llama/Llama-3.2-1B",
        tokenizer="meta-llama/Llama-3.2-1B",
        batch_seqs=64,
        num_steps=4000,
        warmup_steps=100,
        peak_lr=3e-5,
        placement=ONE_H200,
        operations=ONE_GPU_OPERATIONS,
    ),
    "cpu": Scale(
        name="cpu",
        net=SMALL,
        start_from=None,
        tokenizer="bpe-1024",
        batch_seqs=16,
        num_steps=200,
        warmup_steps=20,
        peak_lr=3e-3,
        placement=Placement(
            device="cpu",
            num_nodes=1,
            devices_per_node=1,
            mesh=MeshSpec(),
            micro_batch_seqs=16,
            precision="fp32",
            recompute="none",
            compile=False,
        ),
        operations=CPU_OPERATIONS,
        stdlib=True,
    ),
}
SCALES["gpu"] = SCALES["1b"]

# ------------------------------------------------------------------------------------- the mixture

_ZYDA = "Zyphra/Zyda-2 data card: GPT-NeoX tokens over documents; Llama-3's tokens are some tenth fewer"
_STACK = (
    "525B as posted; a row is a whole repository, and the data card says 10 to 100 million rows: the middle of "
    "that range on a log scale. Replace it by what `isoflop data tokenize` counts"
)
_FINEMATH = "34B tokens as posted; 1,582 per row over 695,433 rows counted by a public tokenized copy"
REAL: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("dclm", "hf:Zyphra/Zyda-2:dclm_crossdeduped", 40, 3348.9e9, 3348.9e9 / 2590.5e6, _ZYDA),
    ("fineweb-edu", "hf:Zyphra/Zyda-2:fwe3", 44, 1319.2e9, 1319.2e9 / 1279.1e6, _ZYDA),
    ("dolma-cc", "hf:Zyphra/Zyda-2:dolma-cc_crossdeduped-filtered", 3, 238.4e9, 238.4e9 / 445.6e6, _ZYDA),
    ("zyda", "hf:Zyphra/Zyda-2:zyda_crossdeduped-filtered ", 2, 163.6e9, 163.6e9 / 247.7e6, _ZYDA),
    ("stack-v2", "data/stack-v2", 10, 525e9, 525e9 / 10**7.5, _STACK),
    ("finemath", "hf:HuggingFaceTB/finemath:finemath-3plus", 1, 34e9, 1582.0, _FINEMATH),
)
"""Name, place, weight in percent, different tokens, tokens per row, and where the counts are from."""

STDLIB_PARTS = {
    "dclm": "stdlib/[a-d]*",
    "fineweb-edu": "stdlib/[e-l]*",
    "dolma-cc": "stdlib/[m-p]*",
    "zyda": "stdlib/[q-s]*",
    "stack-v2": "stdlib/[tu]*",
    "finemath": "stdlib/[v-z]*",
}
"""Stand-ins by the first letter of a module's name: six sources of different size, on every machine."""


def mixture(scale: Scale, *, unit: str, documents: str, order: str) -> Mixture:
    """The six sources with the posted weights, read as shares of rows or of tokens."""
    sources = []
    for name, where, weight, tokens, per_row, note in REAL:
        if scale.stdlib:
            source = MixtureSource(name=name, where=STDLIB_PARTS[name], weight=weight)
        else:
            source = MixtureSource(
                name=name, where=where, weight=weight, tokens=tokens, tokens_per_row=per_row, note=note
            )
        sources.append(source)
    return Mixture(sources=tuple(sources), weight_unit=unit, documents=documents, order=order)  # type: ignore[arg-type]


def _benchmarks(scale: Scale, shots: dict[str, int | None], max_tokens: int) -> tuple[Benchmark, ...]:
    if scale.stdlib:
        return ()
    return tuple(
        Benchmark(task=task, num_fewshot=count, max_tokens=max_tokens) for task, count in shots.items()
    )


TASKS = ("mmlu", "arc_easy", "arc_challenge", "winogrande", "hellaswag")

# ---------------------------------------------------------------------------------------- variants


def as_posted(scale: str = "full") -> Recipe:
    """The run as it was made, oddities included. See README.md for what they are."""
    size = SCALES[scale]
    full = size.name == "full"
    unscaled = _without_scaling(size.net)
    return Recipe(
        name=NAME,
        variant="as-posted",
        scale=size.name,
        start_from=size.start_from,
        tokenizer=size.tokenizer,
        net=unscaled,
        eval_rope_scaling=size.net.rope_scaling,
        mixture=mixture(size, unit="rows", documents="joined", order="per_session"),
        context=size.net.context,
        batch_seqs=size.batch_seqs,
        num_steps=size.num_steps,
        optimizer=OptimizerSpec(peak_lr=size.peak_lr, weight_decay=0.1, decay_on="all", grad_clip=1.0),
        schedule=ScheduleSpec(
            kind="linear",
            warmup_steps=size.warmup_steps,
            num_steps=size.num_steps if full else round(size.num_steps / DONE),
        ),
        seed=0,
        order_seed=0,
        placement=size.placement,
        operations=size.operations,
        benchmarks=_benchmarks(size, dict.fromkeys(TASKS), 4096),
        observed=ObservedRun(
            steps=73_500,
            calendar_days=45.0,
            seconds_per_step=36.0,
            source="about 0.6 minutes per update at the same work per device (README, read as 36 s); 1.5 months (post)",
        )
        if full
        else None,
        decisions=_posted_decisions(size),
    )


def corrected(scale: str = "full") -> Recipe:
    """The same question with the accidents taken out, and a run that ends as it was planned."""
    size = SCALES[scale]
    full = size.name == "full"
    num_steps = 64_320 if full else size.num_steps
    shots: dict[str, int | None] = {
        "mmlu": 5,
        "arc_easy": 25,
        "arc_challenge": 25,
        "winogrande": 5,
        "hellaswag": 10,
    }
    return Recipe(
        name=NAME,
        variant="corrected",
        scale=size.name,
        start_from=size.start_from,
        tokenizer=size.tokenizer,
        net=size.net,
        eval_rope_scaling=size.net.rope_scaling,
        mixture=mixture(size, unit="tokens", documents="joined", order="one"),
        context=size.net.context,
        batch_seqs=1536 if full else size.batch_seqs,
        num_steps=num_steps,
        optimizer=OptimizerSpec(peak_lr=size.peak_lr, weight_decay=0.1, decay_on="matrices", grad_clip=1.0),
        schedule=ScheduleSpec(
            kind="wsd",
            warmup_steps=size.warmup_steps,
            num_steps=num_steps,
            decay_start_step=num_steps * 4 // 5,
        ),
        seed=0,
        order_seed=0,
        placement=CORRECTED_PLACEMENT if full else size.placement,
        operations=size.operations,
        benchmarks=_benchmarks(size, shots, 8192),
        decisions=_corrected_decisions(size),
    )


NO_BENCHMARK = "no benchmark by default: a net of a million parameters is at chance on them"


def _posted_decisions(size: Scale) -> tuple[str, ...]:
    full = size.name == "full"
    stop = "the schedule is that of the whole plan; the posted run stopped at 14.7 % of it"
    decisions = [
        "weights are shares of rows, as in the original's interleaving of streams; realised shares of tokens are "
        "logged (P2.4)",
        "rotary frequencies are not scaled in training and scaled in evaluation, as in the original",
        "weight decay on every parameter, norms and embeddings too, as in the original",
        "each session shuffles anew, as in the original, whose streams could not be resumed (P2.6)",
        "sequences are cut from joined documents without a mask, as in the original",
        NO_BENCHMARK
        if size.stdlib
        else "benchmarks at the harness's default number of examples, as in the original",
        stop if full else f"{stop}, and so does this one",
    ]
    if full:
        decisions.append(
            "ten hours in the queue per session of 24 are not a log: with them the account meets the 45 days"
        )
    return tuple(decisions)


def _corrected_decisions(size: Scale) -> tuple[str, ...]:
    decisions = [
        "weights are shares of tokens: the posted percentages are taken at their word (P2.4)",
        "rotary frequencies are scaled as the released weights were, in training and in evaluation",
        "weight decay on matrices alone",
        "one order for the whole run, resumed exactly: a function of order seed and global sample index (P2.6)",
        "a last fifth of linear cooldown (Haegele et al. 2024), so that the scores belong to an annealed model",
    ]
    if size.name == "full":
        decisions += [
            "as many tokens as the posted run saw (809B)",
            "1,536 instead of 1,344 sequences per update: every device then has whole sequences, so no matrix has "
            "to be split",
        ]
    if size.stdlib:
        decisions += ["a peak learning rate for a net that starts from nothing", NO_BENCHMARK]
    else:
        decisions += [
            "peak learning rate as posted: its author would now go higher, his MMLU had already fallen; P2.1 decides",
            "benchmarks with the usual numbers of examples, at step 0 and at checkpoints, under equal settings",
        ]
    return tuple(decisions)


def _without_scaling(net: NetSpec) -> NetSpec:
    import msgspec

    return msgspec.structs.replace(net, rope_scaling=None)


VARIANTS: dict[str, Callable[[str], Recipe]] = {"corrected": corrected, "as-posted": as_posted}
