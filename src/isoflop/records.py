"""The frozen nouns that pass between rooms, and how they go to disk and come back.

Every file that one verb writes and another reads is one of these records as JSON, with a ``schema``
field that names the record and its version. An older file is brought up to date by the functions in
`MIGRATIONS`; a newer one is refused with a sentence. Nothing scientific happens here.

Two rules hold for all of them. A number that is undefined is ``None`` and travels with the reason why
(never zero, never NaN: the encoder refuses those). What bears a run's identity is kept apart from where
it happens to be placed: see `RunSpec.fingerprint`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from isoflop import units

Scalar = float | int | str | bool | None
Outcome = Literal["supported", "contradicted", "cannot tell"]
Convention = Literal[
    "6N-nonembedding",  # 6 x parameters without token embedding and without output head (Kaplan 2020)
    "6N-all",  # 6 x all parameters (Hoffmann 2022, common shorthand)
    "matmul-causal",  # every matrix product incl. the head, attention scores at their causal share
    "matmul-full",  # the same with the full square of attention scores
    "matmul-causal+recompute",  # one more forward pass of the blocks for activation recomputation
    "matmul-full+recompute",
]


class RecordError(ValueError):
    """A file or mapping that is not the record it should be; the message says what, where and the remedy."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: frozen, keyword-only, refuses unknown fields."""

    SCHEMA: ClassVar[int] = 1


R = TypeVar("R", bound=Record)


# --------------------------------------------------------------------------------------- numbers


class Estimate(Record, frozen=True, kw_only=True):
    """A number with its uncertainty, or the sentence why there is none."""

    value: float | None
    """Point estimate; None when undefined, then `reason` says why."""
    unit: str
    """Unit in words: "nats/token", "parameters", "factor", "FLOPs"."""
    lo: float | None = None
    """Lower end of the interval; None means unbounded or not available (see `reason`)."""
    hi: float | None = None
    """Upper end of the interval; None means unbounded or not available (see `reason`)."""
    level: float = 0.95
    """Confidence level of [lo, hi], in (0, 1)."""
    method: str = ""
    """How the interval was made, in a few words: "profile t, 14 df", "bootstrap of trunks"."""
    reason: str | None = None
    """Why the value or one end of the interval is missing."""


class FlopCount(Record, frozen=True, kw_only=True):
    """A count of floating-point operations. It never travels without its convention."""

    flops: float
    """Training FLOPs (forward and backward) unless said otherwise; >= 0."""
    convention: Convention


class Budget(Record, frozen=True, kw_only=True):
    """What may be spent: an amount, its unit and, for FLOPs, the counting convention."""

    amount: float
    """> 0, in `unit`."""
    unit: Literal["flops", "seconds", "device_seconds", "usd", "labels", "calls"]
    convention: Convention | None = None
    """How FLOPs are counted; only for unit "flops"."""
    device: str | None = None
    """Name of the device for device_seconds, as in `isoflop.flops.hardware`, e.g. "H100"."""
    per_month: bool = False
    """True for an allocation that renews each month."""
    text: str = ""
    """As the user wrote it."""

    @classmethod
    def parse(cls, text: str, convention: Convention = "matmul-causal") -> Budget:
        """Read a budget as people write it: "3e11 FLOPs", "5 min", "2 H100-days", "$200".

        Raises ValueError with the offending text and examples that work.
        """
        quantity = units.parse_budget(text)
        return cls(
            amount=quantity.amount,
            unit=quantity.unit,
            convention=convention if quantity.unit == "flops" else None,
            device=quantity.device,
            per_month=quantity.per_month,
            text=text.strip(),
        )


# ------------------------------------------------------------------------------- what a run is


class RopeScaling(Record, frozen=True, kw_only=True):
    """Llama-3.1's frequency scaling of rotary embeddings (Llama Team 2024, public model config)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class NetSpec(Record, frozen=True, kw_only=True):
    """The shape of a net: enough to build it, count it and name it, and nothing about where it runs."""

    family: str = "decoder"
    """Name of the builder in `isoflop.model`: "decoder" is Llama in equations and parameter names."""
    vocab_size: int
    context: int
    """Longest sequence in tokens that the net is trained on."""
    dim: int
    """Width of the residual stream."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Grouped-query attention: divides num_heads; equal to it for plain multi-head attention."""
    head_dim: int
    ffn_dim: int
    """Hidden width of the gated feed-forward."""
    tied_head: bool = False
    """True when the output head shares the token embedding."""
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of the initial weights; output projections are scaled by 1/sqrt(2 num_layers)."""
    options: dict[str, Scalar] = {}
    """What only one family knows, by name; a builder refuses names that it does not know."""

    @property
    def words(self) -> str:
        """A short human name, e.g. "32x2"."""
        return f"{self.dim}x{self.num_layers}"


class FunctionRef(Record, frozen=True, kw_only=True):
    """A function that a run needs, by address and by the hash of its source. Resolved in train/build.py."""

    path: str
    """ "package.module:function"."""
    source_sha256: str
    """Hash of the function's source text, so that an edited objective is another run."""
    options: dict[str, Scalar] = {}
    """Keyword arguments bound to it."""


class DataSource(Record, frozen=True, kw_only=True):
    """One corpus, tokenized one way."""

    source: str
    """How to find it again: a known name ("stdlib") or a path. Placement, not identity."""
    corpus_sha256: str
    tokenizer: str
    """e.g. "bpe-512", "bytes"."""
    tokenizer_sha256: str
    weight: float = 1.0
    """Share of the mixture, relative to the other sources' weights; > 0."""
    weight_unit: Literal["tokens", "rows"] = "tokens"


class DataSpec(Record, frozen=True, kw_only=True):
    """Which sequences a run sees, in which order: a pure function of (order_seed, global sample index)."""

    sources: tuple[DataSource, ...]
    context: int
    """Tokens per training sequence."""
    order_seed: int


class OptimizerSpec(Record, frozen=True, kw_only=True):
    """AdamW (Loshchilov and Hutter 2019) and what surrounds it."""

    name: Literal["adamw"] = "adamw"
    peak_lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_on: Literal["matrices", "all"] = "matrices"
    grad_clip: float | None = 1.0
    """Largest global gradient norm; None switches clipping off."""


class ScheduleSpec(Record, frozen=True, kw_only=True):
    """Learning rate as a fraction of the peak, by step. See `isoflop.train.schedule`."""

    kind: Literal["constant", "linear", "cosine", "wsd"]
    warmup_steps: int
    num_steps: int
    """Step at which the decay ends (for "constant": the length of the run)."""
    decay_start_step: int | None = None
    """For "wsd": the step at which the linear cooldown starts; None while the trunk is constant."""
    final_fraction: float = 0.0
    start_step: int = 0
    """Step at which the warm-up starts: a branch that re-warms starts its schedule where it leaves its parent.
    `warmup_steps` counts from here, the other steps from step 0."""


class EvalSpec(Record, frozen=True, kw_only=True):
    """Which score is taken at the end of the run (and on the way), on which fixed windows."""

    function: FunctionRef
    num_windows: int
    """Fixed, evenly spaced validation windows of `DataSpec.context` tokens; the same for every run."""
    num_groups: int = 32
    """The windows are kept as this many groups of neighbours: the unit of resampling."""
    every_steps: int | None = None
    """Also score after each so many steps; None scores at the end alone."""
    at_steps: tuple[int, ...] = ()
    """Also score after these steps."""
    sources: tuple[DataSource, ...] = ()
    """Texts whose held-out part is scored, one measurement each; empty takes the first training source."""

    def name_of(self, index: int) -> str:
        """Name of the measurement on a text: "heldout" for the first, with the text's name for the others."""
        return "heldout" if index == 0 else f"heldout {self.sources[index].source}"


class Branch(Record, frozen=True, kw_only=True):
    """Where a run leaves its parent: a cooldown is a first-class child of a trunk."""

    parent: str
    """Full fingerprint of the trunk's RunSpec."""
    step: int
    """The child starts from the trunk's state after this many steps."""
    weights_only: bool = False
    """Take over the weights and start with an empty optimizer, as one does from published weights."""


class SpikeRule(Record, frozen=True, kw_only=True):
    """When a rise of the training loss is undone: see `isoflop.train.spikes`."""

    check_every: int = 50
    """Steps between checks; a rollback goes to the last check that was passed."""
    factor: float = 8.0
    """A loss this many robust standard deviations above the median of the last `window` is a spike."""
    window: int = 128
    """Losses that a step is compared with; none is judged before a quarter of them is there."""
    skip_after: int = 0
    """Batches left out beyond the spike; those from the rollback to the spike are left out anyway."""
    max_rollbacks: int = 10
    """Later spikes are recorded and stay."""


class RunSpec(Record, frozen=True, kw_only=True):
    """One run, complete. Two specs with the same fingerprint are the same run."""

    name: str
    """In words, for people; not part of the identity and never parsed."""
    net: NetSpec
    data: DataSpec
    objective: FunctionRef
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    evaluate: EvalSpec | None
    """None for a trunk that only carries branches."""
    batch_seqs: int
    """Sequences per optimizer step, over all devices."""
    num_steps: int
    """Optimizer steps from step 0, the parent's steps included for a branch."""
    seed: int
    """Initialisation (and any sampling inside the objective)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    branch: Branch | None = None
    start_weights: str | None = None
    """Hash of the weights that it starts from; None draws them from the seed."""
    command: tuple[str, ...] | None = None
    """Bring your own trainer: run this command instead, with the path of spec.json appended."""
    spikes: SpikeRule | None = None
    """Undo a rise of the loss and leave out the batches behind it; None lets it be."""
    train_flops: FlopCount
    """Of the whole path from step 0. Derived from the rest, so not part of the identity."""
    save_at_steps: tuple[int, ...] = ()
    """States to keep for children. Not part of the identity."""
    labels: dict[str, Scalar] = {}
    """What the study wants to group by ("budget": 1e11). Not part of the identity."""

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("name", "train_flops", "save_at_steps", "labels")

    @property
    def tokens(self) -> int:
        """Training tokens of the whole path from step 0."""
        return self.num_steps * self.batch_seqs * self.data.context

    @property
    def start_step(self) -> int:
        """The step this run starts from: 0, or the step at which it leaves its parent."""
        return self.branch.step if self.branch else 0

    @property
    def own_flops(self) -> float:
        """FLOPs that this run itself adds, without those of its parent's path."""
        return self.train_flops.flops * (self.num_steps - self.start_step) / self.num_steps

    def fingerprint(self) -> str:
        """64 hex digits of the identity: net, data, order, seed, schedule, functions' hashes.

        A number counts as its field's type says: ``weight_decay=0`` and ``0.0`` are one run, also after the
        spec has been to disk and back.
        """
        identity = msgspec.to_builtins(msgspec.convert(_to_plain(self), type(self)))
        for field in self.NOT_IDENTITY:
            identity.pop(field)
        _drop_unused(identity)
        scored = (identity["evaluate"] or {}).get("sources", [])
        for source in (*identity["data"]["sources"], *scored):
            source.pop("source")
            source.pop("tokenizer")  # it may be a path; its hash stays
        if identity["start_weights"] is None:  # as it was before there was such a field
            identity.pop("start_weights")
        identity["record"] = f"RunSpec/{self.SCHEMA}"
        return sha256_json(identity)

    @property
    def folder(self) -> str:
        """Name of the run's folder: its words and the first eight digits of its fingerprint."""
        words = "".join(ch if ch.isalnum() or ch in "._" else "-" for ch in self.name).strip("-.")
        return f"{words[:60] or 'run'}-{self.fingerprint()[:8]}"


def _drop_unused(identity: dict[str, Any]) -> None:
    """Leave out of an identity what came later and is not used: runs of before keep their fingerprints."""
    later = (
        (identity, "spikes"),
        (identity["schedule"], "start_step"),
        (identity["branch"], "weights_only"),
        (identity["evaluate"], "at_steps"),
        (identity["evaluate"], "sources"),
    )
    for fields, name in later:
        if fields is not None and not fields[name]:
            fields.pop(name)


class MeshSpec(Record, frozen=True, kw_only=True):
    """How the devices of one run are arranged. Placement, never identity: a run may change it on resume.

    Ranks count through `tensor` first, then `shard`, then `replicate`, so that a tensor-parallel group lies
    within a node and only gradients cross between replicas.
    """

    replicate: int = 1
    """Groups that each hold all weights; their gradients are averaged; >= 1."""
    shard: int = 1
    """Ranks over which a group spreads weights, gradients and optimizer states; >= 1."""
    tensor: int = 1
    """Ranks over which each matrix product is split; >= 1."""

    @classmethod
    def parse(cls, text: str) -> MeshSpec:
        """Read "2x32x8" (replicate x shard x tensor). Raises ValueError with the text and an example."""
        parts = text.lower().replace("×", "x").split("x")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            raise ValueError(f"{text!r} is no mesh: write replicate x shard x tensor, e.g. 2x32x8 or 1x4x1")
        replicate, shard, tensor = map(int, parts)
        if min(replicate, shard, tensor) < 1:
            raise ValueError(f"{text!r} is no mesh: every degree is 1 or more")
        return cls(replicate=replicate, shard=shard, tensor=tensor)

    @property
    def num_devices(self) -> int:
        return self.replicate * self.shard * self.tensor

    @property
    def data(self) -> int:
        """Parts into which a batch is cut: replicate x shard."""
        return self.replicate * self.shard

    @property
    def words(self) -> str:
        """As it is parsed, e.g. "2x32x8"."""
        return f"{self.replicate}x{self.shard}x{self.tensor}"


# ---------------------------------------------------------------------------- full-scale recipes


class MixtureSource(Record, frozen=True, kw_only=True):
    """One source of a mixture, before its text is on this machine."""

    name: str
    """In words, unique in its mixture: names the folder of its token shards."""
    where: str
    """What `isoflop.data.tokenize` reads: "stdlib", a path, or "hf:OWNER/NAME[:CONFIG][@SPLIT]"."""
    weight: float
    """Relative to the other sources' weights; >= 0. A source of weight 0 is left out."""
    tokens: float | None = None
    """Different training tokens that there are, as published; None when nobody has counted."""
    tokens_per_row: float | None = None
    """Mean tokens of a row (a document), end tokens included; None when nobody has counted."""
    note: str = ""
    """Where the two counts are from, and in which tokenizer's tokens."""


class Mixture(Record, frozen=True, kw_only=True):
    """What a run reads: sources, weights, and how rows become sequences."""

    sources: tuple[MixtureSource, ...]
    weight_unit: Literal["rows", "tokens"]
    """What a weight is a share of. Rows of different length make the two differ."""
    documents: Literal["joined", "apart"] = "joined"
    """Sequences hold several documents; "apart" keeps attention within each."""
    order: Literal["one", "per_session"] = "one"
    """ "one": a sample's place is a function of (order_seed, global index), through every restart.
    "per_session": each job shuffles anew, so that rows repeat between jobs and others never come."""


class Placement(Record, frozen=True, kw_only=True):
    """Where a recipe runs, and how the net is spread there. Never identity."""

    device: str
    """As in `isoflop.flops.hardware`, or "cpu"."""
    num_nodes: int
    devices_per_node: int
    mesh: MeshSpec
    micro_batch_seqs: int
    """Sequences that a data-parallel rank computes at once; the rest of its share is accumulated."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 keeps master weights, gradients' sums and moments in fp32."""
    recompute: Literal["none", "full"] = "full"
    compile: bool = True
    reshard: bool = True
    """Give up gathered weights after a block's forward pass."""
    loss_chunks: int = 1
    """Parts of a micro-batch whose logits are in memory at once; 1 keeps all of them."""
    float8: bool = False
    """Compute the blocks' matrix products in float8: for GPUs with such units, with torchao, unsplit."""

    @property
    def num_devices(self) -> int:
        return self.num_nodes * self.devices_per_node


class Operations(Record, frozen=True, kw_only=True):
    """How a long run lives on a shared machine. Durations as a person would estimate them."""

    session_hours: float
    """Longest job that the machine allows."""
    queue_hours: float
    """Mean wait before a job starts."""
    startup_minutes: float
    """From the start of a job, or a restart within it, to its first step."""
    launch_success: float
    """Chance that a launch comes to its first step, in (0, 1]; a failed one costs `startup_minutes`."""
    node_mtbf_hours: float
    """Mean time between failures of one node that stop the run."""
    checkpoint_every_steps: int
    checkpoint_pause_s: float
    """Time without steps per checkpoint."""
    usd_per_device_hour: float | None = None
    """None takes the dated assumption of `isoflop.flops.hardware`, if there is one."""


class ObservedRun(Record, frozen=True, kw_only=True):
    """What is known of a run that was really made in this layout: a planner is held against it."""

    steps: int
    calendar_days: float
    seconds_per_step: float
    """While stepping."""
    source: str


class Benchmark(Record, frozen=True, kw_only=True):
    """A benchmark by its name in the evaluation harness."""

    task: str
    num_fewshot: int | None
    """None leaves the harness's default."""
    max_tokens: int
    """Longest prompt; longer ones lose their beginning."""


class Recipe(Record, frozen=True, kw_only=True):
    """A full-scale run, complete: what is trained, on what, how, where, and how it is scored."""

    name: str
    variant: str
    """In words, e.g. "corrected"."""
    scale: str
    """ "full", or the smaller size that it was scaled to."""
    start_from: str | None
    """Weights to continue from (a Hugging Face name or a folder); None starts from random weights."""
    tokenizer: str
    """A path, a Hugging Face name, "bytes" or "bpe-N"."""
    net: NetSpec
    mixture: Mixture
    context: int
    """Tokens per training sequence."""
    batch_seqs: int
    """Sequences per update, over all devices."""
    num_steps: int
    """Updates that the run is planned for."""
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    seed: int
    order_seed: int
    placement: Placement
    operations: Operations
    benchmarks: tuple[Benchmark, ...]
    """Scored at step 0 and at checkpoints, under equal settings."""
    eval_rope_scaling: RopeScaling | None = None
    """Rotary scaling under which it is scored; equal to the net's unless a recipe copies a mismatch."""
    observed: ObservedRun | None = None
    decisions: tuple[str, ...] = ()
    """Each decision with its source, or the admission that it is assumed."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch_seqs * self.context

    @property
    def tokens(self) -> int:
        """Training tokens of the whole plan."""
        return self.tokens_per_step * self.num_steps


# ----------------------------------------------------------------------- what is known beforehand


class CorpusRecord(Record, frozen=True, kw_only=True):
    """A prepared corpus: what it holds, by hash and by count."""

    source: str
    """A known name or the path that the user gave."""
    corpus_sha256: str
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    num_train_files: int
    num_val_files: int
    train_bytes: int
    val_bytes: int
    train_tokens: int
    val_tokens: int
    split_rule: str
    """In words: which share is held out, by which hash."""
    description: str = ""
    """What the text is, e.g. "standard library of CPython 3.11.7"."""
    skipped: tuple[Exclusion, ...] = ()
    """Files and rows that were not read, with the reason; many of one kind end in a count."""


class Calibration(Record, frozen=True, kw_only=True):
    """What this machine delivers: turns a budget in time into FLOPs, once."""

    machine: str
    """Hash of processor, core count, device and torch version: the key of the cache."""
    device: str
    num_workers: int
    """Runs trained side by side."""
    net_words: tuple[str, ...]
    """The nets that were timed, in the order of the next fields."""
    train_flops_per_token: tuple[float, ...]
    flops_per_s: tuple[float, ...]
    """Measured training rate of one worker on each net, all workers busy."""
    eval_tokens_per_s: tuple[float, ...]
    startup_s: float
    """Seconds before a worker takes its first step."""
    convention: Convention
    torch_version: str
    measured: str
    """ISO date and time."""


class PlannedRun(Record, frozen=True, kw_only=True):
    """A run, why it is in the plan, what is expected of it and what it will cost."""

    spec: RunSpec
    fingerprint: str
    why: str
    predicted_loss: Estimate | None = None
    cost_flops: float
    """FLOPs that it adds (a branch does not pay for its trunk again)."""
    cost_seconds: float | None = None
    """Worker-seconds expected from the calibration; None without one."""


class DecisionRule(Record, frozen=True, kw_only=True):
    """How the data will be turned into an answer, fixed before the first run."""

    text: str
    """In plain words."""
    parameters: dict[str, Scalar] = {}
    """The numbers in it: level, epsilon, thresholds, floors."""
    statements: tuple[str, ...] = ()
    """The statements on which the verdict will pass, one by one."""


class Provenance(Record, frozen=True, kw_only=True):
    """Versions and hardware. Never identity; a difference is said."""

    isoflop: str
    python: str
    torch: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    machine: str = ""
    device: str = "cpu"
    num_workers: int = 1
    started: str = ""


class Plan(Record, frozen=True, kw_only=True):
    """Everything decided before the first run."""

    study: str
    study_source: str = ""
    """How to find the study again: its installed name, or the path of its file."""
    claims: tuple[str, ...] = ()
    """Ids as in docs/claims.md."""
    question: str
    budget: Budget
    planned_flops: FlopCount
    """Sum of all runs' own FLOPs."""
    planned_seconds: float | None = None
    """Expected wall time with the calibrated number of workers; None without a calibration."""
    runs: tuple[PlannedRun, ...]
    rule: DecisionRule
    seeds: tuple[int, ...]
    corpus: CorpusRecord | None = None
    calibration: Calibration | None = None
    assumptions: tuple[str, ...] = ()
    """Each decision that the planner took, with its source or the admission that it is assumed."""
    notes: tuple[str, ...] = ()
    """What this plan cannot tell, known beforehand."""
    options: dict[str, Scalar] = {}
    """The study's own numbers, read again by its judge."""
    rerun: str = ""
    """Command that does it all again, where that is not `isoflop run`."""
    provenance: Provenance | None = None

    def fingerprint(self) -> str:
        """Identity of the plan: its question, rule and runs; not when or where it was made."""
        return sha256_json(
            {
                "study": self.study,
                "rule": msgspec.to_builtins(self.rule),
                "options": self.options,
                "runs": [run.fingerprint for run in self.runs],
            }
        )


class PlanRequest(Record, frozen=True, kw_only=True):
    """What a study is given to plan with. Passes in memory; never written."""

    budget: Budget
    seeds: int | None = None
    """Number of seeds that the user asks for; None leaves it to the study."""
    corpus: CorpusRecord | None = None
    more_text: tuple[CorpusRecord, ...] = ()
    """The study's further texts that could be had, in the order of `Study.more_text`."""
    calibration: Calibration | None = None


# ------------------------------------------------------------------------------- what happened


class Attempt(Record, frozen=True, kw_only=True):
    """One try at a run, from a start or a resume to an end or a kill."""

    started: str
    first_step: int
    last_step: int
    seconds: float
    flops: float
    flops_wasted: float = 0.0
    """Spent on steps that a later attempt had to do again, or on a run that came to nothing."""
    ended: Literal["finished", "diverged", "failed", "killed", "cut"]


class Spike(Record, frozen=True, kw_only=True):
    """A rise of the training loss, and what was done about it."""

    step: int
    """The update whose loss was too high."""
    loss_before_nats: float
    """Median of the losses before it."""
    loss_nats: float | None
    """Its own; None when it was not finite."""
    threshold_nats: float
    action: Literal["rolled back", "kept"]
    """ "kept" once `SpikeRule.max_rollbacks` are used up."""
    back_to_step: int | None = None
    """Updates behind the state that the run went back to."""
    first_sample: int | None = None
    """First training sample (global index of the run's order) that was left out."""
    num_samples: int = 0
    """Samples left out from there on; the run goes on behind them."""
    redone_steps: int = 0
    """Updates that were undone."""


class Speed(Record, frozen=True, kw_only=True):
    """How fast a run went, by the wall clock: reading, scoring and saving are in it."""

    tokens_per_s: float
    flops_per_s: FlopCount
    """Training FLOPs per second, by the run's convention."""
    mfu: float | None = None
    """Model FLOPs utilisation, in (0, 1): by `mfu_formula`."""
    mfu_reason: str | None = None
    """Why there is no MFU."""
    mfu_formula: str = "training FLOPs per token x tokens/s / (devices x dense peak FLOP/s of one device)"
    memory_bytes: int | None = None
    """Most that was taken: by tensors on one GPU, by the whole process on a CPU."""


class RunRecord(Record, frozen=True, kw_only=True):
    """What happened to one run."""

    fingerprint: str
    name: str
    status: Literal["finished", "diverged", "failed", "cut"]
    reason: str | None = None
    """For anything but "finished": what happened, at which step."""
    num_steps: int
    tokens: int
    train_flops: FlopCount
    """Of the path from step 0."""
    attempts: tuple[Attempt, ...]
    parent: str | None = None
    final_train_loss_nats: float | None = None
    """Mean of the last tenth of the steps; None for a run that did not finish."""
    spikes: tuple[Spike, ...] = ()
    """Where the loss rose, for a run with a `SpikeRule`."""
    speed: Speed | None = None
    """None for a run by another trainer, or one of an older version."""
    provenance: Provenance
    reused_from: str | None = None
    """Folder that it was taken from, when it was not trained here."""

    @property
    def flops_spent(self) -> float:
        return sum(attempt.flops for attempt in self.attempts)

    @property
    def flops_wasted(self) -> float:
        return sum(attempt.flops_wasted for attempt in self.attempts)

    @property
    def seconds_spent(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)


class Measurement(Record, frozen=True, kw_only=True):
    """A number, its unit, its sampling error, what was held fixed."""

    run: str
    """Full fingerprint of the run."""
    name: str
    """e.g. "heldout"."""
    step: int
    loss: Estimate
    """nats/token, mean over windows; the interval is that of sampling windows, unpaired."""
    bits_per_byte: Estimate
    group_nats: tuple[float, ...]
    """Mean nats/token of each group of validation windows, in a fixed order: pairs runs with each other."""
    group_tokens: tuple[int, ...]
    num_bytes: int
    held_fixed: str
    """In words: which windows, context, precision."""
    scores: dict[str, Estimate] = {}
    """Further scores of the same weights on the same windows, by name; empty for most functions."""


class SourceScores(Record, frozen=True, kw_only=True):
    """A run of several sources at one step: the loss on each one's held-out text, and what the device did."""

    step: int
    scores: tuple[Measurement, ...]
    """One per source that holds out text, named after it, on the same windows at every step."""
    without: tuple[Exclusion, ...] = ()
    """Sources that hold out too little text to be scored, with the reason."""
    peak_memory_bytes: int | None = None
    """Most that the fullest device (on a processor: the largest process) has held so far."""
    matmul_flops_per_s: float | None = None
    """Rate of a large dense matrix product on the first device, measured at this step; None when it was not."""


class BenchmarkScore(Record, frozen=True, kw_only=True):
    """A model's score on one task of an evaluation harness under one metric, and what must be equal to compare."""

    model: str
    """Where the weights are from: a folder or a name."""
    run: str | None
    """Full fingerprint of the run that made them; None for weights from elsewhere."""
    step: int | None
    """Updates behind them; None likewise."""
    task: str
    """Name in the harness."""
    metric: str
    """e.g. "acc"; with the harness's filter after a comma where there is one: "exact_match,strict-match"."""
    score: Estimate
    """The interval is that of sampling items, unpaired; two models' difference on the same items is known better."""
    standard_error: float | None
    """As the harness gives it; None where it gives none."""
    num_items: int
    task_version: str | None
    num_fewshot: int | None
    """Examples before each question; None for a group whose tasks differ."""
    harness: str
    """Name and version."""
    chat_template: bool
    """Prompts were put into the model's chat template."""
    precision: str
    """Of the weights, e.g. "float32"."""
    context: int
    """Tokens that the model saw at most; longer prompts lost their beginning."""
    items: str | None = None
    """File of the item log, beside this record."""
    items_sha256: str | None = None
    scored: str
    """ISO date and time."""


class RunEvidence(Record, frozen=True, kw_only=True):
    """One run as a judge sees it."""

    spec: RunSpec
    record: RunRecord | None
    """None for a run that never ended."""
    measurements: tuple[Measurement, ...] = ()
    metrics: tuple[dict[str, Any], ...] = ()
    """Rows of metrics.jsonl; only for judges that look at the way to the end."""
    source_scores: tuple[SourceScores, ...] = ()
    """In order of steps; only for runs of several sources."""


class Evidence(Record, frozen=True, kw_only=True):
    """All that a study's judge is given. Passes in memory; never written."""

    plan: Plan | None = None
    """None for a study that trains nothing."""
    runs: tuple[RunEvidence, ...] = ()
    data: dict[str, str] = {}
    """Name in the data catalogue -> path of the local copy, for those that are there."""


# ------------------------------------------------------------------------------ what is concluded


class Exclusion(Record, frozen=True, kw_only=True):
    """Something that was left out, and why. Nothing disappears without one of these."""

    what: str
    reason: str


class NoiseAtFraction(Record, frozen=True, kw_only=True):
    """What the loss part-way tells about the end, among seeds of one configuration."""

    fraction: float
    """Of the schedule, in (0, 1)."""
    sd: float
    """Standard deviation of the loss there, pooled over configurations."""
    correlation: Estimate
    """With the final score, pooled within configurations."""


class NoiseEntry(Record, frozen=True, kw_only=True):
    """Seed noise of one scale and metric."""

    scale: str
    """What kind of run, in words: "32x2, 1e+11 FLOPs", or "all scales"."""
    metric: str
    sd: Estimate
    """Standard deviation of one run around its configuration's mean."""
    df: float
    num_runs: int
    num_configurations: int
    """With at least two seeds each."""
    homogeneity_p: float | None = None
    """p value of equal spreads among the configurations; small: they should not be pooled."""
    part_way: tuple[NoiseAtFraction, ...] = ()


class NoiseModel(Record, frozen=True, kw_only=True):
    """Seed noise learned from finished runs: the asset that plans seeds, looks and early stops."""

    entries: tuple[NoiseEntry, ...]
    sources: tuple[str, ...]
    """Folders whose runs were read."""
    exclusions: tuple[Exclusion, ...] = ()
    notes: tuple[str, ...] = ()


class Certificate(Record, frozen=True, kw_only=True):
    """Evidence that a fit is at its optimum."""

    converged: bool
    scaled_gradient: float | None = None
    """Largest gradient component in scaled coordinates, relative to the objective."""
    smallest_curvature: float | None = None
    """Smallest eigenvalue of the scaled Hessian; > 0 at a minimum."""
    multistart_gap: float | None = None
    """(objective - best of many starts) / best; about 0 when no start does better."""
    certified_share: float | None = None
    """Share of bootstrap replicates with a certificate of their own."""
    note: str = ""


class Fit(Record, frozen=True, kw_only=True):
    """A law or curve met data."""

    name: str
    form: str
    """The formula, in text."""
    estimates: dict[str, Estimate]
    error_model: str
    num_points: int
    degrees_of_freedom: float | None = None
    objective: float | None = None
    certificate: Certificate | None = None
    identified: bool = True
    not_identified: str | None = None
    """The sentence why the data cannot carry a parameter; set when `identified` is False."""
    exclusions: tuple[Exclusion, ...] = ()
    draws: dict[str, tuple[float, ...]] = {}
    """Some of the bootstrap draws, for drawing: one array per parameter, equal lengths."""
    options: dict[str, Scalar] = {}
    notes: tuple[str, ...] = ()


class Column(Record, frozen=True, kw_only=True):
    name: str
    title: str
    unit: str = ""
    format: str = ""
    """A Python format spec for people ("{:.3g}"); the data keep full precision."""


class Table(Record, frozen=True, kw_only=True):
    """Data that a report shows and ships as CSV and Parquet."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Scalar, ...], ...]
    note: str = ""


class Figure(Record, frozen=True, kw_only=True):
    """What to draw, from which tables and fits; `isoflop.publish.figures` knows how, by `kind`."""

    name: str
    kind: str
    title: str
    caption: str
    alt: str
    """What a reader who cannot see it should know."""
    tables: tuple[str, ...] = ()
    fits: tuple[str, ...] = ()
    options: dict[str, Scalar] = {}


class Statement(Record, frozen=True, kw_only=True):
    """One statement of the rule, judged."""

    text: str
    outcome: Outcome
    because: str
    """With the numbers."""
    estimate: Estimate | None = None
    settle: str | None = None
    """For "cannot tell": what would settle it."""


class Cost(Record, frozen=True, kw_only=True):
    """The ledger of a study. Wasted is part of spent."""

    convention: Convention | None = None
    planned_flops: float | None = None
    spent_flops: float
    wasted_flops: float = 0.0
    planned_seconds: float | None = None
    spent_seconds: float
    """Worker-seconds (device-seconds on a GPU)."""
    wasted_seconds: float = 0.0
    usd: float | None = None
    reused_runs: int = 0


class Verdict(Record, frozen=True, kw_only=True):
    """The answer, with its reasons."""

    study: str
    claims: tuple[str, ...] = ()
    question: str
    outcome: Outcome
    sentence: str
    """The verdict in one sentence of plain words."""
    statements: tuple[Statement, ...] = ()
    effect: str = ""
    """The effect in plain units and in compute equivalents."""
    settle: str | None = None
    """For "cannot tell": what budget or data would settle it."""
    unresolved: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    """What was assumed or not varied, in words ("a rule, not a search, set the learning rates")."""
    fits: tuple[Fit, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    plan_fingerprint: str | None = None
    summary: dict[str, Any] = {}
    """The study's own machine-readable answer, merged into the command's --json output."""
    cost: Cost | None = None
    provenance: Provenance | None = None


# ------------------------------------------------------------------------------------ on disk

_RECORDS: dict[str, type[Record]] = {
    cls.__name__: cls
    for cls in (
        RunSpec,
        MeshSpec,
        Plan,
        RunRecord,
        Measurement,
        SourceScores,
        BenchmarkScore,
        Fit,
        Verdict,
        CorpusRecord,
        Calibration,
        NoiseModel,
        Attempt,
        Table,
        Recipe,
    )
}

MIGRATIONS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""(record, version) -> function that brings a mapping of that version to the next one.

Only the outermost record of a file says its version. When a record changes that others contain, each of
those gets a new version too, and a migration that reaches into it.
"""


def sha256_json(value: Any) -> str:
    """Hash of a JSON value in canonical form (sorted keys, no spaces, shortest floats)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def schema_of(cls: type[Record]) -> str:
    """The value of the ``schema`` field: "isoflop.Plan/1"."""
    return f"isoflop.{cls.__name__}/{cls.SCHEMA}"


def to_mapping(record: Record) -> dict[str, Any]:
    """The record as JSON-ready mapping with its ``schema`` field first.

    NumPy's scalars become plain numbers. Raises RecordError when a number in it is not finite (undefined is
    None with a reason), or a value is of a kind that JSON does not have.
    """
    mapping = {"schema": schema_of(type(record)), **_to_plain(record)}
    _refuse_non_finite(mapping, type(record).__name__)
    return mapping


def encode(record: Record, *, indent: int | None = None) -> bytes:
    """The record as JSON bytes, on one line unless `indent` is given."""
    return json.dumps(to_mapping(record), indent=indent, allow_nan=False, ensure_ascii=False).encode()


def decode(data: bytes | str | Mapping[str, Any], cls: type[R], *, where: str = "input") -> R:
    """Read a record, migrating an older version.

    Args:
        data: JSON text, or a mapping already read from it.
        cls: the record that is expected.
        where: file name for messages.

    Raises:
        RecordError: not JSON, another record, a newer version, a field that is wrong or unknown.
    """
    if isinstance(data, Mapping):
        mapping = dict(data)
    else:
        try:
            mapping = json.loads(data)
        except ValueError as error:
            raise RecordError(f"{where}: not valid JSON ({error}); the file may be cut short") from None
    if not isinstance(mapping, dict):
        raise RecordError(f"{where}: expected a JSON object, found {type(mapping).__name__}")
    schema = str(mapping.pop("schema", ""))
    name, _, version_text = schema.removeprefix("isoflop.").partition("/")
    if name != cls.__name__ or not version_text.isdigit():
        what = f"a {name}" if name in _RECORDS else "no file of isoflop's" if not schema else f"{schema!r}"
        raise RecordError(f"{where}: expected {schema_of(cls)!r}, but this is {what}")
    version = int(version_text)
    if version > cls.SCHEMA:
        raise RecordError(
            f"{where}: {schema} was written by a newer isoflop; this one reads up to {schema_of(cls)}"
        )
    while version < cls.SCHEMA:
        if (name, version) not in MIGRATIONS:
            raise RecordError(f"{where}: {name}/{version} is too old to be read; make the file again")
        mapping = MIGRATIONS[name, version](mapping)
        version += 1
    _refuse_non_finite(mapping, f"{where}: {name}")
    try:
        return msgspec.convert(mapping, cls)
    except msgspec.ValidationError as error:
        raise RecordError(f"{where}: {error}") from None


def read(path: Path, cls: type[R]) -> R:
    """Read a record from a file; errors name the file."""
    return decode(path.read_bytes(), cls, where=str(path))


def _to_plain(record: Record) -> dict[str, Any]:
    """The record's fields as plain Python values."""
    try:
        plain: dict[str, Any] = msgspec.to_builtins(record, enc_hook=_plain_scalar)
    except (TypeError, NotImplementedError) as error:
        raise RecordError(
            f"{type(record).__name__}: {error}; records hold numbers, text and tuples"
        ) from None
    return plain


def _plain_scalar(value: Any) -> Any:
    """NumPy's scalars as Python's; anything else stays refused."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    raise NotImplementedError(f"cannot store a {type(value).__name__}")


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{where} is {value}: store None with a reason instead")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{index}]")
