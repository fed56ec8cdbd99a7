"""Data parallel training: the ranks of torchrun or SLURM, and what they agree on.

Each rank takes its share of a step's rows; gradients, losses and the wish to stop are made common
after it, so that all ranks take the same step or none. Rank 0 alone reads and writes the run's
files and the others start from what it read; ranks that share out the weights themselves
(machine.shard) write a file each.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from scaling.budget import rows_each
from scaling.corridor import FLAG

STOPS = ("", FLAG, "stopped", "preempted", "timeout", "superseded")  # the graver, the later
ENVIRONMENTS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


@dataclass(frozen=True)
class World:
    """This process among those that train one model together; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank keeps the files."""
        return self.rank == 0

    def lost(self) -> str:
        """Say which other rank was lost, and why, where this one started them; empty otherwise."""
        return ""

    def share(self, value: Any) -> Any:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        holder = [value]
        distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def mean_(self, tensor: Tensor) -> Tensor:
        """Put the mean over ranks in a tensor's place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
            tensor.div_(self.size)
        return tensor

    def gravest(self, stop: str, save: bool, device: torch.device) -> tuple[str, bool]:
        """Return the gravest reason to stop of any rank, and whether any wants a checkpoint."""
        if self.size == 1:
            return stop, save
        found = torch.tensor([STOPS.index(stop), save], device=device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        worst, any_save = found.tolist()
        return STOPS[worst], bool(any_save)

    def all_of(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
        """Divide the weights among the ranks, block by block; each `loss` gathers what it needs."""
        from torch.distributed.device_mesh import init_device_mesh  # these take half a second
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(device.type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")

    def rows(self, rows: int) -> int:
        """Return this rank's rows of a step; ValueError where they cannot be divided."""
        return rows_each(rows, self.size)

    def part(self, batch: Tensor) -> Tensor:
        """Return this rank's rows of a batch."""
        mine = self.rows(len(batch))
        return batch[self.rank * mine : (self.rank + 1) * mine]


ALONE = World()


def is_part(tensor: Tensor) -> bool:
    """Say whether other ranks hold parts of a tensor (torch's DTensor)."""
    return hasattr(tensor, "to_local")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts that other ranks hold; all ranks must ask."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def divided_as(own: Tensor, value: Tensor) -> Tensor:
    """Return a whole value on the device of `own` and, where that is a part, this rank's part."""
    value = value.to(own.device)
    if not is_part(own) or is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def started_ranks() -> int:
    """Return how many ranks torchrun or srun started; 1 for an ordinary process."""
    for _, size, _ in ENVIRONMENTS[:1] if "RANK" in os.environ else ENVIRONMENTS[1:]:
        if "MASTER_ADDR" in os.environ:
            return int(os.environ.get(size, "1"))
    return 1


def join(device: str) -> World:
    """Join the other ranks; NCCL on GPUs, one a rank, gloo otherwise.

    srun gives no address: a batch script sets MASTER_ADDR and MASTER_PORT. Raises ValueError where
    a node has fewer GPUs than ranks.
    """
    size = started_ranks()
    if size == 1:
        return ALONE
    names = ENVIRONMENTS[0] if "RANK" in os.environ else ENVIRONMENTS[1]
    rank, local = int(os.environ[names[0]]), int(os.environ.get(names[2], "0"))
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu and local >= torch.cuda.device_count():
        raise ValueError(
            f"rank {rank} has no GPU of its own ({torch.cuda.device_count()} here); start "
            "fewer ranks a node, or set machine.device=cpu"
        )
    return meet("env://", rank=rank, size=size, gpu=local if gpu else None)


def meet(address: str, *, rank: int, size: int, gpu: int | None) -> World:
    """Join the others at torch's address (env://, file:///...), on a GPU of one's own or on CPU."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    kind = "gloo" if gpu is None else "nccl"
    distributed.init_process_group(kind, init_method=address, rank=rank, world_size=size)
    return World(rank=rank, size=size)


def leave() -> None:
    """Leave the other ranks."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
