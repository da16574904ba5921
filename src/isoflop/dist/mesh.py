"""The processes of one run and how they are arranged: replicate x shard x tensor, always described.

    axis        who works with it
    replicate   gradients are averaged over it
    shard       weights, gradients and optimizer states are spread over it (FSDP2); gradients are averaged
    tensor      matrix products and positions are split over it; these ranks see the same rows of a batch

Rows of a batch are dealt over replicate x shard. A mesh of one device has no process group, no device mesh
and no collectives: `World` then returns what it is given.

On GPUs both backends are there: NCCL for tensors of the step, gloo for what hosts say to each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from isoflop.dist.launch import NEW_STORE
from isoflop.records import MeshSpec, NetSpec

T = TypeVar("T")

AXES = ("replicate", "shard", "tensor")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: longer than compiling the slowest block or reading a checkpoint."""


@dataclass(frozen=True)
class World:
    """One process among those of a run.

    Attributes:
        mesh: the arrangement.
        rank: of this process, 0 to mesh.num_devices - 1.
        device: where this process computes.
        device_mesh: PyTorch's mesh with the axes `AXES`; None for one device.
        data_mesh: replicate and shard as one axis; None for one device.
    """

    mesh: MeshSpec
    rank: int
    device: torch.device
    device_mesh: DeviceMesh | None
    data_mesh: DeviceMesh | None

    @property
    def is_first(self) -> bool:
        """True on the one rank that writes what all share."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which part of a batch this rank sees, 0 to mesh.data - 1; the same within a tensor group."""
        return self.rank // self.mesh.tensor

    def rows(self, batch_seqs: int) -> slice:
        """This rank's rows of a global batch. Raises ValueError when it cannot be dealt equally."""
        if batch_seqs % self.mesh.data:
            raise ValueError(
                f"{batch_seqs} sequences cannot be dealt equally over {self.mesh.data} ranks "
                f"(replicate x shard of {self.mesh.words}); take a multiple of {self.mesh.data}"
            )
        count = batch_seqs // self.mesh.data
        return slice(self.data_rank * count, (self.data_rank + 1) * count)

    def group(self, axis: str) -> dist.ProcessGroup:
        """The process group of one axis, or "data" for replicate and shard together."""
        assert self.device_mesh is not None, "one device has no groups"
        assert self.data_mesh is not None
        return self.data_mesh.get_group() if axis == "data" else self.device_mesh[axis].get_group()

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the parts of the batch; the argument is not changed."""
        if self.mesh.data == 1:
            return value
        total = value.clone()
        dist.all_reduce(total, group=self.group("data"))
        return total / self.mesh.data

    def largest(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all ranks: whatever depends on a clock or a signal goes through here.

        Talks over the CPU's group, so that no queue of a GPU is waited for.
        """
        if self.device_mesh is None:
            return values
        told = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return tuple(told.tolist())

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return bool(self.largest(int(flag))[0])

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.largest(0)

    def from_first(self, action: Callable[[], T]) -> T:
        """What an action of the first rank returned, on every rank; what it raised is raised on all."""
        if self.device_mesh is None:
            return action()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = action()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        if told[1] is not None:
            raise told[1]
        return told[0]

    def gathered(self, value: T) -> list[T]:
        """The value of each rank, on every rank; it is pickled on the way."""
        if self.device_mesh is None:
            return [value]
        values: list[Any] = [None] * self.mesh.num_devices
        dist.all_gather_object(values, value)
        return values


def check_mesh(mesh: MeshSpec, num_processes: int) -> None:
    """Raise ValueError when the degrees do not multiply to the number of processes."""
    for axis in AXES:
        if getattr(mesh, axis) < 1:
            raise ValueError(f"a mesh with {axis}={getattr(mesh, axis)}: every degree is 1 or more")
    if mesh.num_devices != num_processes:
        raise ValueError(
            f"the mesh {mesh.words} takes {mesh.num_devices} processes, but there are {num_processes}; start "
            "as many (torchrun --nproc-per-node), or choose degrees whose product is that number"
        )


def check_fit(
    mesh: MeshSpec,
    net: NetSpec,
    divisible: tuple[str, ...],
    *,
    context: int,
    batch_seqs: int,
    accumulate: int = 1,
) -> None:
    """Raise ValueError, before anything is built, when a net or a batch cannot be split so.

    Args:
        mesh: the arrangement.
        net: the shape.
        divisible: fields of the shape that the tensor degree must divide (`ShardingPlan.divisible`).
        context: positions per sequence; tensor ranks share them out equally.
        batch_seqs: sequences per update over all ranks.
        accumulate: micro-batches per update.
    """
    for name in divisible:
        if getattr(net, name) % mesh.tensor:
            raise ValueError(
                f"{name} is {getattr(net, name)}, which {mesh.tensor} tensor ranks cannot share equally; "
                "take a tensor degree that divides it"
            )
    if context % mesh.tensor:
        raise ValueError(
            f"sequences of {context} tokens cannot be shared equally by {mesh.tensor} tensor ranks; take a "
            f"context that is a multiple of {mesh.tensor}"
        )
    parts = mesh.data * accumulate
    if accumulate < 1 or batch_seqs % parts or batch_seqs < parts:
        raise ValueError(
            f"{batch_seqs} sequences per update cannot be dealt equally over {mesh.data} ranks x {accumulate} "
            f"micro-batches; take a multiple of {parts}"
        )


def join(mesh: MeshSpec, device: str | torch.device = "cpu") -> World:
    """This process's place in the mesh; the default process group is already there (one device needs none).

    Raises ValueError when the mesh does not have as many devices as there are processes.
    """
    place = torch.device(device)
    num_processes = dist.get_world_size() if dist.is_initialized() else 1
    check_mesh(mesh, num_processes)
    if mesh.num_devices == 1:
        return World(mesh, 0, place, None, None)
    degrees = tuple(getattr(mesh, axis) for axis in AXES)
    device_mesh = init_device_mesh(place.type, degrees, mesh_dim_names=AXES)
    data_mesh = device_mesh["replicate", "shard"]._flatten("data")
    return World(mesh, dist.get_rank(), place, device_mesh, data_mesh)


def _meeting_place(timeout: timedelta) -> dict[str, Any]:
    """Where the ranks find each other, when it is not where PyTorch would look.

    torchrun of PyTorch 2.13 gives restarted ranks the store of those before them, addresses of dead
    processes included, and they may connect to those. On one node its count of restarts sets them apart;
    over several nodes the counts may differ, and only a new store helps.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
            return {}
        raise ValueError(
            f"restarts over several nodes would meet the addresses of dead processes: set {NEW_STORE} in the "
            "environment of torchrun, as isoflop's own launch commands do, or --max-restarts=0"
        )
    num_processes, restart = int(os.environ["WORLD_SIZE"]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    port = int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, num_processes, is_master=False, timeout=timeout)
    return {
        "store": dist.PrefixStore(f"restart-{restart}", store),
        "rank": int(os.environ["RANK"]),
        "world_size": num_processes,
    }


@contextlib.contextmanager
def session(mesh: MeshSpec, device: str = "cpu", timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """The world that a launcher has laid out in the environment (torchrun's variables), left at the end.

    Without those variables, or with WORLD_SIZE=1, it is one device.

    Args:
        mesh: the arrangement.
        device: "cpu" or "cuda"; a process takes the GPU of its LOCAL_RANK.
        timeout: how long a rank waits for the others.

    Raises ValueError before joining anything when mesh and number of processes differ.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    check_mesh(mesh, num_processes)
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if num_processes == 1:
        yield World(mesh, 0, place, None, None)
        return
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        timeout=timeout,
        device_id=place if place.type == "cuda" else None,
        **_meeting_place(timeout),
    )
    try:
        yield join(mesh, place)
    finally:
        dist.destroy_process_group()
