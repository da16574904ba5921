"""How large a model is in memory, and a layout of devices on which its training fits.

Estimates, good to some ten per cent, before a net exists: a decoder of usual proportions stands in for the
model, mixed-precision AdamW is sharded over all devices, every block is recomputed in the backward pass, and
attention scores are never stored. What a real net needs is measured by training it. Left out: pipeline,
expert and context parallelism, and every question of speed.

Rajbhandari et al. 2020 (ZeRO), section 3.1: bytes per parameter. Korthikanti et al. 2022, section 4: bytes of
activations; with a fused attention kernel their term with the square of the context falls away.
"""

from __future__ import annotations

import math

from isoflop.flops.count import parameters
from isoflop.records import NetSpec, Record

WEIGHT_BYTES, GRADIENT_BYTES, MASTER_BYTES, MOMENT_BYTES = 2, 2, 4, 8
STATE_BYTES = WEIGHT_BYTES + GRADIENT_BYTES + MASTER_BYTES + MOMENT_BYTES
USABLE = 0.9
"""Share of a device's memory that a plan may fill; the rest is fragments, buffers and the runtime."""
SPLITS = (1, 2, 4, 8)
"""Tensor-parallel degrees that are tried: within one node."""


class Memory(Record, frozen=True, kw_only=True):
    """Bytes that training a model takes, over all devices, and per device for the activations."""

    weights: float
    gradients: float
    optimizer: float
    """Two moments and the float32 master copy."""
    activations: float
    """Of one sequence, before any splitting."""
    working: float
    """One block's gathered weights and gradients, before any splitting."""
    context: int

    @property
    def state(self) -> float:
        return self.weights + self.gradients + self.optimizer


class Layout(Record, frozen=True, kw_only=True):
    """A way to place the training on devices, or the sentence why there is none."""

    feasible: bool
    num_devices: int
    """Devices given; or the fewest that hold the model, when none were given."""
    fewest_devices: int
    """Fewest that hold the model, with one sequence per device group in memory."""
    shard: int
    """FSDP2 degree: weights, gradients and optimizer are spread over so many groups."""
    tensor: int
    """Tensor-parallel degree: each matrix is split over so many devices."""
    bytes_per_device: float
    memory_per_device: float
    text: str


def usual_shape(N: float) -> NetSpec:
    """A decoder of about N parameters in usual proportions: width 128 per layer, feed-forward 3.5 widths.

    The nearest count of layers to N at that width; grouped-query attention with 8 key-value heads from
    width 1,024 on; vocabulary 32k below a billion parameters and 128k above.

    Raises ValueError below 1e5 parameters, where an embedding alone is larger.
    """
    if not 1e5 <= N < 1e17:
        raise ValueError(f"no usual shape for {N:g} parameters; give a size from 1e5 to 1e17")
    vocab = 32_768 if N < 1e9 else 131_072
    vocab = max(256, min(vocab, int(N / 640)))
    dim = 64.0
    for _ in range(60):  # 12.75 d^2 per block, d/128 blocks, two vocabulary matrices
        blocks = max(N - 2 * vocab * dim, 0.2 * N)
        dim = (blocks * 128 / 12.75) ** (1 / 3)
    step = 1024 if dim >= 6000 else 512 if dim >= 2000 else 128 if dim >= 512 else 16
    width = max(step, round(dim / step) * step)
    head_dim = 128 if width >= 1024 else 16 if width < 128 else 64 if width % 64 == 0 else 16
    heads = max(1, width // head_dim)
    per_block = 12.75 * width**2
    layers = max(1, round((N - 2 * vocab * width) / per_block))
    return NetSpec(
        vocab_size=vocab,
        context=4096 if N < 30e9 else 8192,
        dim=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=math.gcd(8, heads) if width >= 1024 else heads,
        head_dim=head_dim,
        ffn_dim=max(16, round(3.5 * width / 16) * 16),
    )


def training_memory(N: float, shape: NetSpec | None = None) -> Memory:
    """Bytes to train N parameters with AdamW in bfloat16 with float32 master weights."""
    net = shape or usual_shape(N)
    tokens = net.context
    kept = 2.0 * tokens * net.dim * net.num_layers  # the input of each block
    block = 34.0 * tokens * net.dim  # one block recomputed
    logits = 6.0 * tokens * net.vocab_size  # bfloat16 and float32
    per_block = (parameters(net).attention + parameters(net).feed_forward) / net.num_layers
    return Memory(
        weights=WEIGHT_BYTES * N,
        gradients=GRADIENT_BYTES * N,
        optimizer=(MASTER_BYTES + MOMENT_BYTES) * N,
        activations=kept + max(block, logits),
        working=(WEIGHT_BYTES + GRADIENT_BYTES) * max(per_block, net.vocab_size * net.dim),
        context=net.context,
    )


def find_layout(memory: Memory, memory_per_device: float, num_devices: int | None, device: str) -> Layout:
    """The layout with the least splitting of matrices that fits.

    Args:
        memory: of the model.
        memory_per_device: bytes.
        num_devices: devices at hand; None asks for the fewest that do.
        device: its name, for the text.

    Raises ValueError for no devices or no memory.
    """
    if num_devices is not None and num_devices < 1:
        raise ValueError(f"{num_devices} devices: a layout takes 1 or more")
    if not memory_per_device > 0:
        raise ValueError(f"{memory_per_device} bytes of memory per device: it takes more than 0")
    usable = USABLE * memory_per_device
    needs = {split: _fewest(memory, usable, split) for split in SPLITS}
    possible = {split: fewest for split, fewest in needs.items() if fewest is not None}
    if not possible:
        return _refused(memory, memory_per_device, num_devices, device, None)
    fewest = min(possible.values())
    if num_devices is None:
        split = min(possible, key=lambda one: (possible[one], one))
        return _placed(memory, memory_per_device, possible[split], fewest, split, device)
    for split, enough in possible.items():
        if enough <= num_devices:
            used = num_devices // split * split
            return _placed(memory, memory_per_device, used, fewest, split, device)
    return _refused(memory, memory_per_device, num_devices, device, fewest)


def bytes_per_device(memory: Memory, num_devices: int, tensor: int) -> float:
    """State over all devices; activations and the gathered block over the tensor-parallel group."""
    return memory.state / num_devices + (memory.activations + memory.working) / tensor


def _fewest(memory: Memory, usable: float, tensor: int) -> int | None:
    room = usable - (memory.activations + memory.working) / tensor
    if room <= 0:
        return None
    groups = math.ceil(memory.state / room / tensor)
    count = max(1, groups) * tensor
    return count if count <= 8 else math.ceil(count / 8) * 8  # whole nodes


def _placed(
    memory: Memory, per_device: float, num_devices: int, fewest: int, tensor: int, device: str
) -> Layout:
    shard = num_devices // tensor
    needed = bytes_per_device(memory, num_devices, tensor)
    how = [
        f"FSDP2 over {shard:,}" if shard > 1 else "",
        f"tensor parallel over {tensor}" if tensor > 1 else "",
    ]
    placed = " with ".join(part for part in how if part) or "no splitting"
    return Layout(
        feasible=True,
        num_devices=num_devices,
        fewest_devices=fewest,
        shard=shard,
        tensor=tensor,
        bytes_per_device=needed,
        memory_per_device=per_device,
        text=f"{num_devices:,} {device}: {placed}, about {needed / 1e9:,.0f} of {per_device / 1e9:,.0f} GB each",
    )


def _refused(
    memory: Memory, per_device: float, num_devices: int | None, device: str, fewest: int | None
) -> Layout:
    needed = bytes_per_device(memory, num_devices or 1, SPLITS[-1])
    remedy = (
        f"at least {fewest:,} are needed"
        if fewest
        else f"one block and one sequence exceed a {device} even split over {SPLITS[-1]}: it takes pipeline "
        "or context parallelism, which this estimate leaves out"
    )
    given = f"{num_devices:,} {device} do not hold it: " if num_devices else ""
    return Layout(
        feasible=False,
        num_devices=num_devices or 0,
        fewest_devices=fewest or 0,
        shard=0,
        tensor=0,
        bytes_per_device=needed,
        memory_per_device=per_device,
        text=given + remedy,
    )
