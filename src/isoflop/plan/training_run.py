"""A full-scale run on paper: does it fit, how long does it take, what does it cost, and is there a better layout?

    recipe -> parameters -> memory per device -> step time -> days on a shared machine -> money

Step times are either observed (a recipe that copies a run that was made) or a roofline (`training_speed`);
which of the two, each plan says. Days come out of the steps by way of an account of a job's life: waiting,
starting, failing, saving. Every figure that goes in besides the recipe itself is listed as an assumption.
Left out: learning (see `isoflop.plan.size`) and how the run is started (`isoflop.dist`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from isoflop import units
from isoflop.flops.count import parameters, train_flops, train_flops_per_token
from isoflop.flops.hardware import PRICES_AS_OF, device
from isoflop.plan.mixture_account import SourceAccount, account_mixture
from isoflop.plan.training_memory import USABLE, MemoryItem, elements_per_device, memory_items
from isoflop.plan.training_speed import (
    ACCURACY,
    CONVENTION,
    LINK_SHARE,
    LINKS,
    OVERLAP,
    StepTime,
    kernel_share,
    links_of,
    step_time,
)
from isoflop.records import MeshSpec, Operations, Placement, Recipe, Record

DAY_S = 86_400.0
MONTH_DAYS = 365.25 / 12
TENSOR_DEGREES = (1, 2, 4, 8)
SHOWN = 5
"""Layouts that a plan lists."""
MANY_EPOCHS = 4.0
"""Up to here repeated text is nearly as good as new text (Muennighoff et al. 2023, section 6)."""


class LayoutChoice(Record, frozen=True, kw_only=True):
    """One way to spread the run over its devices."""

    mesh: str
    """replicate x shard x tensor."""
    batch_seqs: int
    """Sequences per update; the recipe's own unless said otherwise."""
    micro_batch_seqs: int
    accumulate: int
    recompute: str
    reshard: bool
    bytes_per_device: float
    seconds_per_step: float
    tokens_per_s_per_device: float
    mfu: float


class Duty(Record, frozen=True, kw_only=True):
    """Where the calendar goes: shares of all time, which sum to 1."""

    stepping: float
    waiting: float
    """In the queue."""
    starting: float
    """Launches, failed launches and restarts."""
    repeating: float
    """Steps done again after a failure."""
    saving: float
    """Pauses for checkpoints."""


class ObservedPace(Record, frozen=True, kw_only=True):
    """What a run that was made comes to, beside what this planner would have said."""

    steps: int
    tokens: float
    calendar_days: float
    calendar_tokens_per_s_per_device: float
    calendar_mfu: float
    stepping_tokens_per_s_per_device: float
    stepping_mfu: float
    stepping_days: float
    duty: float
    """Share of the calendar that was spent stepping."""
    days_left: float
    """For the steps that the plan still has, at the observed pace."""
    expected_seconds_per_step: float
    """By the roofline."""
    expected_duty: float
    source: str


class RunPlan(Record, frozen=True, kw_only=True):
    """Everything that can be said about a run before it starts."""

    recipe: str
    variant: str
    scale: str
    parameters: int
    nonembedding_parameters: int
    tokens_per_step: int
    num_steps: int
    tokens: float
    train_flops: float
    convention: str
    """How FLOPs and MFU are counted."""
    device: str
    num_devices: int
    memory_per_device: float | None
    """Nominal bytes; None for a device that is not listed."""
    total_memory: float | None
    memory: tuple[MemoryItem, ...]
    bytes_per_device: float
    elements_per_device: int
    fits: bool | None
    """Within the usable share of the memory; None when the memory is not known."""
    fewest_devices: int | None
    """Fewest of this device that hold the run with one sequence at a time; None when unknown or none do."""
    layout: LayoutChoice | None
    """The recipe's own; None on a device without a known rate."""
    step: StepTime | None
    seconds_per_step: float | None
    """Observed when the recipe copies a run, else expected."""
    seconds_per_step_source: str
    best: tuple[LayoutChoice, ...]
    """The fastest that fit, at the recipe's batch."""
    best_other_batch: LayoutChoice | None
    """A faster one that needs another batch, within a quarter of the recipe's."""
    duty: Duty | None
    stepping_days: float | None
    days: float | None
    """On the calendar."""
    device_hours: float | None
    """Booked while jobs run: waiting in the queue is free."""
    usd: float | None
    usd_note: str
    observed: ObservedPace | None
    mixture: tuple[SourceAccount, ...]
    """What the weights mean for the whole run."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


def plan_run(recipe: Recipe, *, flops_per_s: float | None = None) -> RunPlan:
    """Plan one run.

    Args:
        recipe: what is to be trained, and where.
        flops_per_s: measured training FLOP/s of one device (`CONVENTION`), instead of the roofline.

    Raises:
        ValueError: the recipe contradicts itself (mesh and devices, batch and ranks), or names a device
            that is not listed and is not "cpu".
    """
    check_recipe(recipe)
    placement = recipe.placement
    known = placement.device != "cpu"
    memory = memory_items(recipe.net, recipe.context, placement)
    needed = sum(item.bytes_per_device for item in memory)
    capacity = device(placement.device).memory_bytes if known else None
    step = _own_step(recipe, flops_per_s) if known or flops_per_s else None
    seconds, source = _seconds_per_step(recipe, step, flops_per_s)
    duty = None if seconds is None else duty_of(recipe.operations, placement.num_nodes, seconds)
    stepping = None if seconds is None else recipe.num_steps * seconds / DAY_S
    observed = _observed(recipe, step, duty)
    share = observed.duty if observed else duty.stepping if duty else None
    days = None if stepping is None or share is None else stepping / share
    hours = _device_hours(recipe, stepping, duty)
    usd, usd_note = _cost(recipe, hours)
    best = search_layouts(recipe, recipe.batch_seqs) if known else ()
    count = parameters(recipe.net)
    plan = RunPlan(
        recipe=recipe.name,
        variant=recipe.variant,
        scale=recipe.scale,
        parameters=count.total,
        nonembedding_parameters=count.nonembedding,
        tokens_per_step=recipe.tokens_per_step,
        num_steps=recipe.num_steps,
        tokens=float(recipe.tokens),
        train_flops=train_flops(recipe.net, recipe.tokens, CONVENTION, recipe.context).flops,
        convention=CONVENTION,
        device=device(placement.device).name if known else "cpu",
        num_devices=placement.num_devices,
        memory_per_device=capacity,
        total_memory=None if capacity is None else capacity * placement.num_devices,
        memory=memory,
        bytes_per_device=needed,
        elements_per_device=elements_per_device(recipe.net, placement.mesh),
        fits=None if capacity is None else needed <= USABLE * capacity,
        fewest_devices=_fewest_devices(recipe, capacity),
        layout=_choice(recipe, placement, recipe.batch_seqs, step) if step else None,
        step=step,
        seconds_per_step=seconds,
        seconds_per_step_source=source,
        best=best[:SHOWN],
        best_other_batch=_other_batch(recipe, best) if known else None,
        duty=duty,
        stepping_days=stepping,
        days=days,
        device_hours=hours,
        usd=usd,
        usd_note=usd_note,
        observed=observed,
        mixture=account_mixture(recipe.mixture, recipe.tokens),
        assumptions=tuple(_assumptions(recipe, flops_per_s)),
        warnings=(),
    )
    return msgspec.structs.replace(plan, warnings=tuple(_warnings(recipe, plan)))


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that contradicts itself, before anything is spent.

    Raises ValueError with the numbers and the remedy.
    """
    placement, mesh, net = recipe.placement, recipe.placement.mesh, recipe.net
    if mesh.num_devices != placement.num_devices:
        raise ValueError(
            f"{recipe.name}: the mesh {mesh.words} takes {mesh.num_devices} devices, the placement has "
            f"{placement.num_nodes} x {placement.devices_per_node} = {placement.num_devices}"
        )
    if recipe.batch_seqs < 1 or recipe.num_steps < 1 or placement.micro_batch_seqs < 1:
        raise ValueError(f"{recipe.name}: batch, micro-batch and steps are 1 or more")
    own, rest = divmod(recipe.batch_seqs, mesh.data)
    if rest or own % placement.micro_batch_seqs:
        raise ValueError(
            f"{recipe.name}: a batch of {recipe.batch_seqs} sequences cannot be dealt over {mesh.data} "
            f"data-parallel ranks in micro-batches of {placement.micro_batch_seqs}; take a multiple of "
            f"{mesh.data * placement.micro_batch_seqs}"
        )
    for name, value in (
        ("num_heads", net.num_heads),
        ("num_kv_heads", net.num_kv_heads),
        ("ffn_dim", net.ffn_dim),
        ("vocab_size", net.vocab_size),
        ("context", recipe.context),
    ):
        if value % mesh.tensor:
            raise ValueError(
                f"{recipe.name}: {name} is {value}, which {mesh.tensor} tensor ranks cannot share"
            )
    if recipe.context > net.context:
        raise ValueError(
            f"{recipe.name}: sequences of {recipe.context} tokens exceed the net's context of {net.context}"
        )
    if recipe.schedule.num_steps < recipe.num_steps and recipe.schedule.final_fraction == 0.0:
        raise ValueError(
            f"{recipe.name}: the learning rate is zero from step {recipe.schedule.num_steps} on, but "
            f"{recipe.num_steps} steps are planned"
        )
    _check_mixture(recipe)
    _check_operations(recipe.operations)


def _check_mixture(recipe: Recipe) -> None:
    sources = recipe.mixture.sources
    if not sources or not sum(source.weight for source in sources) > 0:
        raise ValueError(f"{recipe.name}: the weights of the mixture sum to 0; give one source a weight")
    for source in sources:
        if not 0 <= source.weight < math.inf:
            raise ValueError(
                f"{recipe.name}: the weight of {source.name} is {source.weight}; it is 0 or more"
            )
    if len({source.name for source in sources}) < len(sources):
        raise ValueError(f"{recipe.name}: two sources of the mixture have the same name")


def _check_operations(operations: Operations) -> None:
    if not 0 < operations.launch_success <= 1:
        raise ValueError(f"launch_success is {operations.launch_success}; it is a chance in (0, 1]")
    if not operations.session_hours > 0 or not operations.node_mtbf_hours > 0:
        raise ValueError("session_hours and node_mtbf_hours are above 0")
    if min(operations.queue_hours, operations.startup_minutes, operations.checkpoint_pause_s) < 0:
        raise ValueError("queue_hours, startup_minutes and checkpoint_pause_s are 0 or more")
    if operations.checkpoint_every_steps < 1:
        raise ValueError("checkpoint_every_steps is 1 or more")


# ------------------------------------------------------------------------------------------ speed


def _own_step(recipe: Recipe, flops_per_s: float | None) -> StepTime:
    """The recipe's own placement: by a measured rate, or by the roofline."""
    placement = recipe.placement
    if flops_per_s is None:
        return step_time(recipe.net, recipe.context, recipe.batch_seqs, placement)
    flops = train_flops_per_token(recipe.net, CONVENTION, recipe.context)
    rate = flops_per_s / flops
    known = placement.device != "cpu"
    return StepTime(
        compute_s=recipe.tokens_per_step / placement.num_devices / rate,
        recompute_s=0.0,
        tensor_s=0.0,
        shard_s=0.0,
        tokens_per_s_per_device=rate,
        mfu=flops_per_s / device(placement.device).peak("bf16") if known else 0.0,
    )


def _seconds_per_step(
    recipe: Recipe, step: StepTime | None, flops_per_s: float | None
) -> tuple[float | None, str]:
    if recipe.observed is not None:
        return recipe.observed.seconds_per_step, f"observed: {recipe.observed.source}"
    if step is None:
        return None, "no rate is known for this device: measure one, or name a device of the list"
    return step.total_s, "measured rate, as given" if flops_per_s else "roofline, good to some 25 %"


def search_layouts(recipe: Recipe, batch_seqs: int) -> tuple[LayoutChoice, ...]:
    """Placements of this batch that fit its devices, the fastest first.

    Tried are tensor degrees within a node, every split of the rest into replicas and shards, every
    micro-batch, with and without recomputation and resharding. Of those that differ only in how states are
    spread, the one with the least traffic is kept.
    """
    capacity = USABLE * device(recipe.placement.device).memory_bytes
    found: dict[tuple[int, int, str], tuple[tuple[float, float, float], LayoutChoice]] = {}
    for placement in _placements(recipe, batch_seqs):
        needed = sum(item.bytes_per_device for item in memory_items(recipe.net, recipe.context, placement))
        if needed > capacity:
            continue
        step = step_time(recipe.net, recipe.context, batch_seqs, placement)
        kind = (placement.mesh.tensor, placement.micro_batch_seqs, placement.recompute)
        rank = (round(step.total_s, 3), round(step.hidden_s, 3), needed)
        if kind not in found or rank < found[kind][0]:
            found[kind] = rank, _choice(recipe, placement, batch_seqs, step, needed)
    return tuple(choice for _, choice in sorted(found.values(), key=lambda pair: pair[0]))


def _placements(recipe: Recipe, batch_seqs: int) -> Iterator[Placement]:
    own, net = recipe.placement, recipe.net
    shared = (net.num_heads, net.num_kv_heads, net.ffn_dim, net.vocab_size, recipe.context)
    for tensor in TENSOR_DEGREES:
        if own.devices_per_node % tensor or any(value % tensor for value in shared):
            continue
        groups = own.num_devices // tensor
        if batch_seqs % groups:
            continue
        for shard in _divisors(groups):
            mesh = MeshSpec(replicate=groups // shard, shard=shard, tensor=tensor)
            for micro in _divisors(batch_seqs // groups):
                for recompute in ("none", "full"):
                    for reshard in (True, False) if shard > 1 else (True,):
                        yield msgspec.structs.replace(
                            own, mesh=mesh, micro_batch_seqs=micro, recompute=recompute, reshard=reshard
                        )


def _choice(
    recipe: Recipe, placement: Placement, batch_seqs: int, step: StepTime, needed: float | None = None
) -> LayoutChoice:
    if needed is None:
        needed = sum(item.bytes_per_device for item in memory_items(recipe.net, recipe.context, placement))
    return LayoutChoice(
        mesh=placement.mesh.words,
        batch_seqs=batch_seqs,
        micro_batch_seqs=placement.micro_batch_seqs,
        accumulate=batch_seqs // placement.mesh.data // placement.micro_batch_seqs,
        recompute=placement.recompute,
        reshard=placement.reshard,
        bytes_per_device=needed,
        seconds_per_step=step.total_s,
        tokens_per_s_per_device=step.tokens_per_s_per_device,
        mfu=step.mfu,
    )


def _other_batch(recipe: Recipe, best: tuple[LayoutChoice, ...]) -> LayoutChoice | None:
    """A layout without split matrices, where the recipe's batch does not allow one and it is faster."""
    devices = recipe.placement.num_devices
    if recipe.batch_seqs % devices == 0:
        return None
    nearest = max(1, round(recipe.batch_seqs / devices)) * devices
    if abs(nearest / recipe.batch_seqs - 1) > 0.25:
        return None
    other = next(iter(search_layouts(recipe, nearest)), None)
    if other is None:
        return None
    faster = not best or other.tokens_per_s_per_device > best[0].tokens_per_s_per_device
    return other if faster else None


def _fewest_devices(recipe: Recipe, capacity: float | None) -> int | None:
    """Fewest devices that hold the run with one sequence at a time, everything sharded and recomputed."""
    if capacity is None:
        return None
    per_node, net = recipe.placement.devices_per_node, recipe.net
    counts = [n for n in (1, 2, 4, 8) if n <= per_node] + [per_node * n for n in (2, 4, 8, 16, 32, 64, 128)]
    for count in counts:
        for tensor in TENSOR_DEGREES:
            if count % tensor or per_node % tensor or net.num_kv_heads % tensor:
                continue
            placement = msgspec.structs.replace(
                recipe.placement,
                mesh=MeshSpec(shard=count // tensor, tensor=tensor),
                micro_batch_seqs=1,
                recompute="full",
                reshard=True,
            )
            items = memory_items(net, recipe.context, placement)
            if sum(item.bytes_per_device for item in items) <= USABLE * capacity:
                return count
    return None


def faster_by(one: LayoutChoice, other: LayoutChoice) -> float:
    """How many times the tokens per second of another layout."""
    return one.tokens_per_s_per_device / other.tokens_per_s_per_device


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


# ----------------------------------------------------------------------------------- the calendar


def duty_of(operations: Operations, num_nodes: int, seconds_per_step: float) -> Duty:
    """Where a session's time goes.

    A session of T seconds after a wait of Q begins with a start that takes S / p, because a failed launch
    costs its time again. Failures come at num_nodes / MTBF and cost a start and, on average, half the steps
    between two checkpoints (Young 1974; Daly 2006). With U the time spent on steps that count,

        T = S/p + U (1 + f (S/p + lost) + pause / interval),   f = failures per second of stepping

    Raises ValueError when a session is over before its first step.
    """
    session, wait = 3600 * operations.session_hours, 3600 * operations.queue_hours
    start = 60 * operations.startup_minutes / operations.launch_success
    interval = operations.checkpoint_every_steps * seconds_per_step
    failures = num_nodes / (3600 * operations.node_mtbf_hours)
    lost, saving = interval / 2, operations.checkpoint_pause_s / interval
    useful = (session - start) / (1 + failures * (start + lost) + saving)
    if useful <= 0:
        raise ValueError(
            f"a start takes {units.format_seconds(start)} on average, a session has "
            f"{units.format_seconds(session)}: no step would be taken"
        )
    total = session + wait
    return Duty(
        stepping=useful / total,
        waiting=wait / total,
        starting=(start + useful * failures * start) / total,
        repeating=useful * failures * lost / total,
        saving=useful * saving / total,
    )


def _observed(recipe: Recipe, step: StepTime | None, duty: Duty | None) -> ObservedPace | None:
    seen = recipe.observed
    if seen is None or step is None or duty is None:
        return None
    devices, tokens = recipe.placement.num_devices, float(seen.steps * recipe.tokens_per_step)
    per_token = train_flops_per_token(recipe.net, CONVENTION, recipe.context)
    peak = device(recipe.placement.device).peak("bf16")
    calendar = tokens / (seen.calendar_days * DAY_S) / devices
    stepping = recipe.tokens_per_step / seen.seconds_per_step / devices
    return ObservedPace(
        steps=seen.steps,
        tokens=tokens,
        calendar_days=seen.calendar_days,
        calendar_tokens_per_s_per_device=calendar,
        calendar_mfu=calendar * per_token / peak,
        stepping_tokens_per_s_per_device=stepping,
        stepping_mfu=stepping * per_token / peak,
        stepping_days=seen.steps * seen.seconds_per_step / DAY_S,
        duty=calendar / stepping,
        days_left=seen.calendar_days * (recipe.num_steps - seen.steps) / seen.steps,
        expected_seconds_per_step=step.total_s,
        expected_duty=duty.stepping,
        source=seen.source,
    )


def _device_hours(recipe: Recipe, stepping_days: float | None, duty: Duty | None) -> float | None:
    """Booked hours: all of a session, none of the queue."""
    if stepping_days is None or duty is None:
        return None
    return 24 * stepping_days / duty.stepping * (1 - duty.waiting) * recipe.placement.num_devices


def _cost(recipe: Recipe, hours: float | None) -> tuple[float | None, str]:
    own = recipe.operations.usd_per_device_hour
    if hours is None:
        return None, "no time, so no cost"
    if own is not None:
        return hours * own, f"at {own:g} USD a device-hour, as given"
    if recipe.placement.device == "cpu":
        return None, "no price is assumed for a CPU"
    chip = device(recipe.placement.device)
    if chip.usd_per_hour is None:
        return None, f"no price is assumed for {chip.name}: give usd_per_device_hour"
    return hours * chip.usd_per_hour, f"at {chip.usd_per_hour:g} USD a device-hour, assumed {PRICES_AS_OF}"


# -------------------------------------------------------------------------------- what is assumed


def _assumptions(recipe: Recipe, flops_per_s: float | None) -> Iterator[str]:
    placement, operations = recipe.placement, recipe.operations
    if placement.device != "cpu":
        chip = device(placement.device)
        if flops_per_s is None:
            link = links_of(placement.device)
            known = "" if chip.name in LINKS else " (assumed)"
            yield (
                f"compute reaches {kernel_share(placement.device):.0%} of the dense bf16 peak of "
                f"{chip.peak('bf16') / 1e12:g} TFLOP/s, FLOPs counted as {CONVENTION}"
            )
            yield (
                f"links: {link.within_node / 1e9:g} GB/s per device within a node, "
                f"{link.between_nodes / 1e9:g} between nodes, {LINK_SHARE:.0%} of it reached{known}; shard "
                f"traffic hides behind {OVERLAP:.0%} of the compute"
            )
        yield f"{USABLE:.0%} of {chip.memory_bytes / 1e9:g} GB can be filled; the rest is fragments and runtime"
    yield (
        f"jobs of {operations.session_hours:g} h after {operations.queue_hours:g} h in the queue; a launch takes "
        f"{operations.startup_minutes:g} min and works {operations.launch_success:.0%} of the time; a node fails "
        f"every {operations.node_mtbf_hours:,.0f} h"
    )
    yield (
        f"a checkpoint every {operations.checkpoint_every_steps} steps pauses {operations.checkpoint_pause_s:g} s"
    )


def _warnings(recipe: Recipe, plan: RunPlan) -> Iterator[str]:
    if plan.fits is False:
        remedy = (
            f"the fastest layout that fits is {plan.best[0].mesh} with micro-batches of "
            f"{plan.best[0].micro_batch_seqs}"
            if plan.best
            else f"at least {plan.fewest_devices} devices are needed"
            if plan.fewest_devices
            else "no layout of this batch fits; split the batch differently or take larger devices"
        )
        yield f"it does not fit: {plan.bytes_per_device / 1e9:.1f} GB per device; {remedy}"
    if plan.layout and plan.best and faster_by(plan.best[0], plan.layout) > 1 + ACCURACY:
        one = plan.best[0]
        yield (
            f"{one.mesh} with micro-batches of {one.micro_batch_seqs} and recomputation {one.recompute!r} would be "
            f"{faster_by(one, plan.layout):.2f} times as fast at the same batch"
        )
    if plan.best_other_batch and plan.layout and faster_by(plan.best_other_batch, plan.layout) > 1 + ACCURACY:
        other = plan.best_other_batch
        yield (
            f"{other.batch_seqs:,} instead of {recipe.batch_seqs:,} sequences per update would allow {other.mesh}: "
            f"{faster_by(other, plan.layout):.2f} times the tokens per second"
        )
    for source in plan.mixture:
        if source.epochs is not None and source.epochs > MANY_EPOCHS:
            yield f"{source.name} would be read {source.epochs:.1f} times"
        if source.token_share and source.row_share and source.token_share > 2 * source.weight_share:
            yield (
                f"{source.name} has {source.weight_share:.0%} of the rows, so {source.token_share:.0%} of the tokens"
            )
    if recipe.eval_rope_scaling != recipe.net.rope_scaling:
        yield "it is trained and scored under different rotary scaling"
    if recipe.mixture.order == "per_session":
        yield "each job shuffles anew: rows repeat between jobs, others never come"
    if recipe.observed and recipe.observed.steps < recipe.num_steps:
        share = recipe.observed.steps / recipe.num_steps
        yield f"only {share:.1%} of the planned steps were made, so the learning rate never came down"
