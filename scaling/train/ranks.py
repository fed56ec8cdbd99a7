"""Data parallel training: the ranks of torchrun or SLURM, and what they agree on.

Each rank takes its share of a step's rows; gradients, losses and the wish to stop are made common
after it, so that all ranks take the same step or none. Rank 0 alone reads and writes the run's
files and the others start from what it read; ranks that share out the weights themselves
(machine.shard) write a file each.
"""

import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from scaling.budget import rows_per_rank
from scaling.config import CellConfig, MachineConfig
from scaling.study.lease import Held, Hold
from scaling.train import rank_exit as ending
from scaling.train.forecast_band import FLAG
from scaling.train.presence import (
    WAIT_SECONDS,
    Presence,
    StoreBoard,
    never_came,
    roll_call,
    said_after,
    waits,
)

log = logging.getLogger(__name__)
FOR_EVER = timedelta(days=30)  # torch wants a time limit of every group
LEAVE_SECONDS = 20.0  # that a group may take to end its threads
OF_A_COLLECTIVE = ("gloo", "nccl", "connection", "timed out", "peer")  # what its errors name
STOPS = ("", FLAG, "stopped", "preempted", "timeout", "superseded")  # the graver, the later
ENVIRONMENTS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)


T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train one model together; alone by default."""

    rank: int = 0
    size: int = 1
    presence: Presence | None = None

    @property
    def first(self) -> bool:
        """Whether this rank keeps the files."""
        return self.rank == 0

    def lost(self, error: RuntimeError) -> str:
        """Say which other rank was lost, where an error comes of that; empty otherwise."""
        text = " ".join(str(error).split())
        if self.presence is None or not any(w in text.lower() for w in OF_A_COLLECTIVE):
            return ""
        return self.presence.lost(within=3 * self.presence.every) or (
            f"another rank was lost ({text}); the same command goes on from the last checkpoint"
        )

    def enter(self) -> None:
        """Count a collective that this rank enters, for those that wait in it."""
        if self.presence is not None:
            self.presence.enter()

    def busy(self, doing: str) -> AbstractContextManager[None]:
        """Do work of this rank alone, for which the others wait as long as it takes."""
        return nullcontext() if self.presence is None else self.presence.busy(doing)

    def share(self, value: Any) -> Any:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        self.enter()
        holder = [value]
        distributed.broadcast_object_list(holder, src=0)
        return holder[0]

    def mean_(self, tensor: Tensor) -> Tensor:
        """Put the mean over ranks in a tensor's place."""
        if self.size > 1:
            self.enter()
            distributed.all_reduce(tensor)
            tensor.div_(self.size)
        return tensor

    def broadcast_(self, tensor: Tensor) -> None:
        """Put rank 0's values in a tensor's place, each rank's on its own device."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)

    def gravest(self, stop: str, save: bool, device: torch.device) -> tuple[str, bool]:
        """Return the gravest reason to stop of any rank, and whether any wants a checkpoint."""
        if self.size == 1:
            return stop, save
        self.enter()
        found = torch.tensor([STOPS.index(stop), save], device=device)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        worst, any_save = found.tolist()
        return STOPS[worst], bool(any_save)

    def all_of(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank."""
        if self.size == 1:
            return [value]
        self.enter()
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
        return rows_per_rank(rows, self.size)

    def part(self, batch: T) -> T:
        """Return this rank's rows of a batch."""
        mine = self.rows(len(batch))  # type: ignore[arg-type]
        return batch[self.rank * mine : (self.rank + 1) * mine]  # type: ignore[index]


ALONE = World()


def is_part(tensor: Tensor) -> bool:
    """Say whether other ranks hold parts of a tensor (torch's DTensor)."""
    return hasattr(tensor, "to_local")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts that other ranks hold; all ranks must ask."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def own_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, all of it where no other rank holds any; no copy."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def as_part(own: Tensor, part: Tensor) -> Tensor:
    """Return this rank's part of a tensor like `own`, on its device, as such a tensor."""
    part = part.to(own.device)
    if not is_part(own):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, shape=own.shape, stride=own.stride())


def divided_as(own: Tensor, value: Tensor) -> Tensor:
    """Return a whole value on the device of `own` and, where that is a part, this rank's part."""
    value = value.to(own.device)
    if not is_part(own) or is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def started_ranks() -> int:
    """Return how many ranks torchrun or srun started; 1 for an ordinary process.

    ValueError where a job's tasks are to meet but srun did not start this process as one of them.
    """
    if "MASTER_ADDR" not in os.environ:
        return 1
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    started = int(os.environ.get("SLURM_STEP_NUM_TASKS", tasks)) if by_srun() else 1
    if started < tasks:
        raise ValueError(
            f"MASTER_ADDR is set in a job of SLURM_NTASKS={tasks} tasks, but srun did not start "
            f"this process as one of them and the others would never come; start it with srun "
            f"--ntasks={tasks} python -m ..., or unset MASTER_ADDR to train with one process"
        )
    return started


def by_srun() -> bool:
    """Say whether srun started this process as a task of a step."""
    return "RANK" not in os.environ and "SLURM_STEP_ID" in os.environ


@contextmanager
def joined(machine: MachineConfig) -> Iterator[World]:
    """Be one of the ranks that torchrun or srun started; leave them whatever happens inside."""
    try:
        world = join(
            machine.device, meet_seconds=machine.meet_seconds, hang_seconds=machine.hang_seconds
        )
        with telling(world):
            yield world
    finally:
        leave()


@contextmanager
def telling(world: World) -> Iterator[None]:
    """Put what is known of a lost rank in the place of a collective's own error."""
    try:
        yield
    except RuntimeError as error:
        lost = world.lost(error)
        if lost and str(error) != lost:
            raise RuntimeError(lost) from error
        raise


def join(device: str, *, meet_seconds: float = 600.0, hang_seconds: float = 1800.0) -> World:
    """Join the other ranks; NCCL on GPUs, one a rank, gloo otherwise.

    srun gives no address: a batch script sets MASTER_ADDR and MASTER_PORT. Raises ValueError where
    a rank has no GPU of its own, RuntimeError where others do not come within `meet_seconds`.
    """
    size = started_ranks()
    if size == 1:
        return ALONE
    names = ENVIRONMENTS[0] if "RANK" in os.environ else ENVIRONMENTS[1]
    rank, local = int(os.environ[names[0]]), int(os.environ.get(names[2], "0"))
    gpu = own_gpu(rank, local) if device != "cpu" and torch.cuda.is_available() else None
    store, where = open_store(rank, size, meet_seconds)
    part = f"scaling-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    there = roll_call(
        StoreBoard(PrefixStore(part, store)),
        rank=rank,
        size=size,
        where=where,
        seconds=meet_seconds,
        me=f"{socket.gethostname()} {gpu_name(gpu)}",
    )
    refuse_shared_gpus(there)
    board = StoreBoard(PrefixStore(part, store.clone()))
    keeper = None if at_agent() else 0
    presence = Presence(board, rank, size, hang_seconds, keeper=keeper)
    return meet(PrefixStore(f"{part}-group", store), gpu=gpu, presence=presence)


def own_gpu(rank: int, local: int) -> int:
    """Return the GPU of a rank, the `local`-th of its node; ValueError where it has none.

    `srun --gpus-per-task` shows each task its own GPUs alone, numbered from 0.
    """
    count = torch.cuda.device_count()
    shown = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()]
    if by_srun() and ("SLURM_GPUS_PER_TASK" in os.environ or len(shown) == count == 1):
        return 0
    if local >= count:
        raise ValueError(
            f"rank {rank} has no GPU of its own ({count} here); start fewer ranks a node, "
            "or set machine.device=cpu"
        )
    return local


def gpu_name(gpu: int | None) -> str:
    """Return what tells a GPU from any other; empty where there is none or it has no such name."""
    if gpu is None:
        return ""
    with suppress(AttributeError, AssertionError, RuntimeError):
        return str(torch.cuda.get_device_properties(gpu).uuid)
    return ""


def refuse_shared_gpus(there: list[str]) -> None:
    """Raise ValueError where two ranks, which say their node and GPU, have the same GPU."""
    for rank, mine in enumerate(there):
        other = there.index(mine)
        if other < rank and mine.partition(" ")[2]:
            raise ValueError(
                f"ranks {other} and {rank} have one GPU of {mine.partition(' ')[0]} together; give "
                "each its own (srun --gpus-per-task=1), start fewer ranks a node, or set "
                "machine.device=cpu"
            )


def at_agent() -> bool:
    """Say whether torchrun keeps the ranks' store, not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def open_store(rank: int, size: int, seconds: float) -> tuple[Any, str]:
    """Open the store at MASTER_ADDR and MASTER_PORT; return it with that address."""
    host, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "")
    if not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"MASTER_PORT={port or 'unset'} is no port; export MASTER_PORT, a number from 1 to "
            "65535 that is free on rank 0's node, beside MASTER_ADDR"
        )
    where, keeps = f"{host}:{port}", rank == 0 and not at_agent()
    try:
        with said_after(
            WAIT_SECONDS, lambda: log.info("%s", waits(rank, size, [0], where, seconds))
        ):
            store = TCPStore(
                host,
                int(port),
                size,
                is_master=keeps,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=True,
            )
    except RuntimeError as error:
        if keeps:
            raise RuntimeError(
                f"rank 0 cannot open {where} ({str(error).splitlines()[0]}); set MASTER_PORT to a "
                "port that is free on its node"
            ) from error
        raise RuntimeError(never_came(rank, size, [0], where, seconds)) from error
    return store, where


def meet(store: Any, *, gpu: int | None, presence: Presence) -> World:
    """Form a group with the others that use a store, on a GPU of one's own or on CPU.

    Time limits of torch's own would end what takes long without being hung: `presence` knows.
    """
    if gpu is not None:
        torch.cuda.set_device(gpu)
    ending.joined.set()
    _present.append(presence)
    presence.start()
    distributed.init_process_group(
        "gloo" if gpu is None else "nccl",
        store=store,
        rank=presence.rank,
        world_size=presence.size,
        timeout=FOR_EVER,
    )
    return World(rank=presence.rank, size=presence.size, presence=presence)


def leave() -> None:
    """Leave the other ranks; without them where they do not let go."""
    while _present:
        _present.pop().stop()
    if not distributed.is_initialized():
        return

    def let_go() -> None:
        with suppress(RuntimeError):  # of a collective that lost its other end
            distributed.destroy_process_group()

    thread = threading.Thread(target=let_go, daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)


_present: list[Presence] = []  # of the group that this process is in


def in_common(world: World, hold: Hold) -> Hold:
    """Return what holds a cell at every rank where rank 0's `hold` does; Held at all or none."""

    @contextmanager
    def held(cell: CellConfig, folder: Path) -> Iterator[None]:
        with ExitStack() as stack:
            other = None
            if world.first:
                try:
                    stack.enter_context(hold(cell, folder))
                except Held as error:
                    other = error.attempt
            if other := world.share(other):
                raise Held(other)
            with telling(world):
                yield

    return held
