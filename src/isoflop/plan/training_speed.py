"""How long an update takes in a placement: a roofline of matrix products and of what is sent between devices.

    step = compute + tensor traffic + what is left of the shard traffic after overlap

Compute runs at a share of the device's dense peak that was measured elsewhere (`KERNEL_SHARE`, without
recomputation and without exposed traffic), and recomputation pays one more forward pass of the blocks.
Tensor-parallel traffic waits for nobody; shard and replica traffic hides behind compute. Good to some 25 %
against public runs (`BACK_TESTS`, checked by the tests); a measured rate is always better. Left out: data
loading, stragglers, topology beyond "within a node or not".

Traffic per collective over n devices is (n - 1) / n of the gathered tensor (Thakur et al. 2005, ring
algorithms); the number of collectives per block follows Korthikanti et al. 2022, section 4.2.2, and Zhao et
al. 2023 (FSDP), section 3.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from isoflop.flops.count import parameters, train_flops_per_token
from isoflop.flops.hardware import device
from isoflop.plan.training_memory import BF16, FP32
from isoflop.records import Convention, MeshSpec, NetSpec, Placement, Record

CONVENTION: Convention = "matmul-full"
"""How MFU is counted here: 6 x matrix parameters + 12 L H h T per token, the formula of torchtitan and PaLM."""

KERNEL_SHARE = {
    "H100 SXM": 0.42,
    "H200": 0.42,
    "A100": 0.58,
    "MI250X GCD": 0.40,
}
"""Share of the bf16 peak that Llama-3-8B's training reaches on few devices without recomputation, from public
runs: torchtitan's benchmark on 8 H100 (39 %, with selective recomputation) and OLMo-core's (47 %); torchtitan
on 64 A100 (58 %); frontier-torchtitan on 64 GCDs (40 %)."""
OTHER_KERNEL_SHARE = 0.40
LINK_SHARE = 0.6
"""Share of a link's nominal rate that a collective reaches (assumed; fits the two tensor-parallel back-tests)."""
OVERLAP = 0.7
"""Share of the compute behind which shard traffic can hide (assumed)."""
ACCURACY = 0.25
"""Largest error against `BACK_TESTS` that is accepted; layouts closer than that are called equal."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """Nominal bytes per second that one device can send, one direction."""

    within_node: float
    between_nodes: float
    source: str


LINKS = {
    "H100 SXM": Links(within_node=450e9, between_nodes=50e9, source="NVLink 4; one 400 Gb/s port per GPU"),
    "H200": Links(within_node=450e9, between_nodes=50e9, source="NVLink 4; one 400 Gb/s port per GPU"),
    "B200": Links(within_node=900e9, between_nodes=50e9, source="NVLink 5; one 400 Gb/s port per GPU"),
    "A100": Links(within_node=300e9, between_nodes=25e9, source="NVLink 3; one 200 Gb/s port per GPU"),
    "MI250X GCD": Links(
        within_node=50e9,
        between_nodes=12.5e9,
        source="one Infinity Fabric link; four 200 Gb/s ports per node",
    ),
    "MI300X": Links(
        within_node=448e9, between_nodes=50e9, source="seven Infinity Fabric links; 400 Gb/s port"
    ),
}
OTHER_LINKS = Links(within_node=25e9, between_nodes=12.5e9, source="PCIe 4 x16 and 100 Gb/s, assumed")


class StepTime(Record, frozen=True, kw_only=True):
    """One update, in seconds, by what is waited for."""

    compute_s: float
    recompute_s: float
    """One more forward pass of the blocks; 0 without recomputation."""
    tensor_s: float
    """Tensor-parallel traffic."""
    shard_s: float
    """Gathering weights, scattering gradients and averaging replicas, beyond what compute hides."""
    hidden_s: float = 0.0
    """The part of that traffic that compute hides; not part of the total."""
    tokens_per_s_per_device: float
    mfu: float
    """Of `CONVENTION`, against the dense bf16 peak."""

    @property
    def total_s(self) -> float:
        return self.compute_s + self.recompute_s + self.tensor_s + self.shard_s


_device = functools.cache(device)
"""A search asks for the same device some thousand times."""


def kernel_share(device_name: str) -> float:
    """Share of the peak that compute alone reaches; see `KERNEL_SHARE`."""
    return KERNEL_SHARE.get(_device(device_name).name, OTHER_KERNEL_SHARE)


def step_time(
    net: NetSpec, context: int, batch_seqs: int, placement: Placement, *, share: float | None = None
) -> StepTime:
    """Expected time of one update.

    Args:
        net: the shape.
        context: tokens per sequence.
        batch_seqs: sequences per update over all devices.
        placement: mesh and the rest; its device is one of `isoflop.flops.hardware`.
        share: share of the peak that compute reaches; `kernel_share` when left out.

    Raises ValueError for a device that is not listed or has no peak in the placement's precision.
    """
    mesh, tokens = placement.mesh, batch_seqs * context
    chip = _device(placement.device)
    rate = chip.peak("bf16" if placement.precision == "bf16" else "fp32")
    delivered = (kernel_share(placement.device) if share is None else share) * rate
    own_tokens = tokens / mesh.num_devices
    flops = train_flops_per_token(net, CONVENTION, context)
    extra = train_flops_per_token(net, "matmul-full+recompute", context) - flops
    compute = own_tokens * flops / delivered
    recompute = own_tokens * extra / delivered if placement.recompute == "full" else 0.0
    tensor = _tensor_s(net, tokens / mesh.data, placement)
    sent = _shard_s(net, batch_seqs // mesh.data // placement.micro_batch_seqs, placement)
    exposed = max(0.0, sent - OVERLAP * (compute + recompute))
    total = compute + recompute + tensor + exposed
    return StepTime(
        compute_s=compute,
        recompute_s=recompute,
        tensor_s=tensor,
        shard_s=exposed,
        hidden_s=sent - exposed,
        tokens_per_s_per_device=own_tokens / total,
        mfu=own_tokens * flops / total / rate,
    )


def links_of(device_name: str) -> Links:
    """Links of a listed device, or the assumption for the others."""
    return LINKS.get(_device(device_name).name, OTHER_LINKS)


def _tensor_s(net: NetSpec, tokens: float, placement: Placement) -> float:
    """Four gathers or scatters of the activations per block and pass, and four at the two ends of the net."""
    tensor = placement.mesh.tensor
    if tensor == 1:
        return 0.0
    size = BF16 if placement.precision == "bf16" else FP32
    passes = 3 if placement.recompute == "full" else 2
    collectives = 4 * passes * net.num_layers + 4
    sent = collectives * tokens * net.dim * size * (tensor - 1) / tensor
    link = links_of(placement.device)
    within = tensor <= placement.devices_per_node
    return sent / (LINK_SHARE * (link.within_node if within else link.between_nodes))


def _shard_s(net: NetSpec, micro_batches: int, placement: Placement) -> float:
    """Weights gathered for each pass of each micro-batch; gradients scattered and averaged once."""
    mesh = placement.mesh
    weights = parameters(net).total / mesh.tensor
    size = BF16 if placement.precision == "bf16" else FP32
    gathers = micro_batches * (2 if placement.reshard else 1)
    total = 0.0
    if mesh.shard > 1:
        part = (mesh.shard - 1) / mesh.shard
        moved = part * weights * (gathers * size + FP32)
        total += _time_to_send(moved, mesh.tensor, mesh.tensor * mesh.shard, placement)
    if mesh.replicate > 1:
        moved = 2 * (mesh.replicate - 1) / mesh.replicate * FP32 * weights / mesh.shard
        total += _time_to_send(moved, mesh.tensor * mesh.shard, mesh.num_devices, placement)
    return total


def _time_to_send(num_bytes: float, stride: int, span: int, placement: Placement) -> float:
    """A collective of ranks `stride` apart over `span` devices: through the node's links, or also its ports.

    What enters a node enters it once and is passed on inside, so its ports share the work.
    """
    link, per_node = links_of(placement.device), placement.devices_per_node
    if span <= per_node:
        return num_bytes / (LINK_SHARE * link.within_node)
    ranks_on_node = max(1, per_node // stride)
    slower = max(num_bytes / link.within_node, num_bytes / ranks_on_node / link.between_nodes)
    return slower / LINK_SHARE


@dataclass(frozen=True, kw_only=True)
class BackTest:
    """A public run against which `step_time` is held."""

    what: str
    placement: Placement
    tokens_per_s_per_device: float
    source: str


def _hopper(nodes: int, mesh: MeshSpec, batch: int) -> Placement:
    return Placement(
        device="H100 SXM",
        num_nodes=nodes,
        devices_per_node=8,
        mesh=mesh,
        micro_batch_seqs=batch,
        recompute="none",
    )


BACK_TESTS = (
    BackTest(
        what="8 H100, FSDP, compiled",
        placement=_hopper(1, MeshSpec(shard=8), 2),
        tokens_per_s_per_device=6667,
        source="torchtitan benchmarks, December 2024 (selective recomputation; counted here as none)",
    ),
    BackTest(
        what="128 H100, FSDP, compiled",
        placement=_hopper(16, MeshSpec(shard=128), 2),
        tokens_per_s_per_device=6514,
        source="torchtitan benchmarks, December 2024 (selective recomputation; counted here as none)",
    ),
    BackTest(
        what="64 H100, FSDP 8 x tensor 8, compiled",
        placement=_hopper(8, MeshSpec(shard=8, tensor=8), 12),
        tokens_per_s_per_device=4378,
        source="torchtitan benchmarks, June 2025 (selective recomputation; counted here as none)",
    ),
    BackTest(
        what="64 A100, FSDP",
        placement=Placement(
            device="A100",
            num_nodes=8,
            devices_per_node=8,
            mesh=MeshSpec(shard=64),
            micro_batch_seqs=1,
            recompute="none",
        ),
        tokens_per_s_per_device=2973,
        source="torchtitan docs/performance.md, 2024",
    ),
    BackTest(
        what="64 MI250X GCDs, FSDP",
        placement=Placement(
            device="MI250X GCD",
            num_nodes=8,
            devices_per_node=8,
            mesh=MeshSpec(shard=64),
            micro_batch_seqs=1,
            recompute="none",
            compile=False,
        ),
        tokens_per_s_per_device=1333,
        source="github.com/eminorhan/frontier-torchtitan, README",
    ),
    BackTest(
        what="512 MI250X GCDs, 2 x 32 x 8, full recomputation",
        placement=Placement(
            device="MI250X GCD",
            num_nodes=64,
            devices_per_node=8,
            mesh=MeshSpec(replicate=2, shard=32, tensor=8),
            micro_batch_seqs=21,
            reshard=False,
        ),
        tokens_per_s_per_device=21 * 8192 * 64 / 36.0 / 512,
        source="the same README: about 0.6 minutes per update (read as 36 s)",
    ),
)
"""Llama-3-8B at sequences of 8,192 tokens."""


def error_of(test: BackTest, net: NetSpec, context: int = 8192) -> float:
    """ln(expected / published rate) of one back-test."""
    batch = test.placement.mesh.data * test.placement.micro_batch_seqs
    found = step_time(net, context, batch, test.placement)
    return math.log(found.tokens_per_s_per_device / test.tokens_per_s_per_device)
