"""Data parallel training: the ranks of torchrun or SLURM, and what they agree on.

Each rank takes its share of a step's rows. Afterwards the ranks exchange gradients, losses and
requests to stop, so that all ranks take the same step or none. Rank 0 alone reads and writes the
run's files, and the others start from what it read. Where each rank holds a part of the weights
(machine.shard), each writes a file of its own.
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
from scaling.train import rank_exit
from scaling.train.forecast_band import FLAG
from scaling.train.presence import (
    WAIT_SECONDS,
    Presence,
    StoreBoard,
    call_after,
    missing_ranks,
    roll_call,
    waiting_for,
)

log = logging.getLogger(__name__)
# torch requires a time limit for every group; scaling.train.presence finds hung ranks instead.
FOR_EVER = timedelta(days=30)
LEAVE_SECONDS = 20.0  # A process group may take this long to end its threads.
# The message of a RuntimeError contains one of these where a collective of gloo or NCCL failed.
OF_A_COLLECTIVE = ("gloo", "nccl", "connection", "timed out", "peer")
STOPS = ("", FLAG, "stopped", "preempted", "timeout", "superseded")  # outcomes, the gravest last
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
        """Say which other rank was lost where that caused the error; empty otherwise."""
        text = " ".join(str(error).split())
        if self.presence is None or not any(w in text.lower() for w in OF_A_COLLECTIVE):
            return ""
        return self.presence.lost(within=3 * self.presence.every) or (
            f"another rank was lost ({text}); the same command goes on from the last checkpoint"
        )

    def enter(self) -> None:
        """Count a collective that this rank enters; the others compare the count with theirs."""
        if self.presence is not None:
            self.presence.enter()

    def busy(self, doing: str) -> AbstractContextManager[None]:
        """Mark work of this rank alone, for which the others wait as long as it takes."""
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
        """Replace a tensor's values by their mean over ranks."""
        if self.size > 1:
            self.enter()
            distributed.all_reduce(tensor)
            tensor.div_(self.size)
        return tensor

    def broadcast_(self, tensor: Tensor) -> None:
        """Replace a tensor's values by rank 0's, on each rank's own device."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)

    def gravest(self, stop: str, save: bool, device: torch.device) -> tuple[str, bool]:
        """Return the gravest reason to stop of any rank, and whether any wants a checkpoint."""
        if self.size == 1:
            return stop, save
        self.enter()
        values = torch.tensor([STOPS.index(stop), save], device=device)
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
        worst, any_save = values.tolist()
        return STOPS[worst], bool(any_save)

    def all_of(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank."""
        if self.size == 1:
            return [value]
        self.enter()
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
        """Divide the weights among the ranks, block by block; `loss` gathers what it needs."""
        from torch.distributed.device_mesh import init_device_mesh  # these take half a second
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(device.type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")
        register_fsdp_forward_method(model, "token_losses")

    def rows(self, rows: int) -> int:
        """Return this rank's rows of a step; ValueError where they cannot be divided."""
        return rows_per_rank(rows, self.size)

    def part(self, batch: T) -> T:
        """Return this rank's rows of a batch."""
        n_rows = self.rows(len(batch))  # type: ignore[arg-type]
        return batch[self.rank * n_rows : (self.rank + 1) * n_rows]  # type: ignore[index]


ALONE = World()


def is_part(tensor: Tensor) -> bool:
    """Say whether other ranks hold parts of a tensor (torch's DTensor)."""
    return hasattr(tensor, "to_local")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts that other ranks hold; all ranks must call this."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def own_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor without a copy; all of an undivided tensor."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def as_part(own: Tensor, part: Tensor) -> Tensor:
    """Return `part`, this rank's part, as a tensor that is divided and placed like `own`."""
    part = part.to(own.device)
    if not is_part(own):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, shape=own.shape, stride=own.stride())


def divided_as(own: Tensor, value: Tensor) -> Tensor:
    """Return a whole `value` on the device of `own`, divided like `own` where that is divided."""
    value = value.to(own.device)
    if not is_part(own) or is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def started_ranks() -> int:
    """Return how many ranks torchrun or srun started; 1 for an ordinary process.

    ValueError where a job of several tasks sets MASTER_ADDR, but srun did not start this process as
    one of the tasks.
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
def launched_ranks(machine: MachineConfig) -> Iterator[World]:
    """Join the ranks that torchrun or srun started; leave them whatever happens inside."""
    try:
        world = join_launched_ranks(
            machine.device, meet_seconds=machine.meet_seconds, hang_seconds=machine.hang_seconds
        )
        with name_lost_rank(world):
            yield world
    finally:
        leave()


@contextmanager
def name_lost_rank(world: World) -> Iterator[None]:
    """Replace the error of a collective by a sentence that names the lost rank."""
    try:
        yield
    except RuntimeError as error:
        sentence = world.lost(error)
        if sentence and str(error) != sentence:
            raise RuntimeError(sentence) from error
        raise


def join_launched_ranks(
    device: str, *, meet_seconds: float = 600.0, hang_seconds: float = 1800.0
) -> World:
    """Join the other ranks: by NCCL with a GPU for each rank, by gloo on CPUs.

    srun gives no address: a batch script sets MASTER_ADDR and MASTER_PORT.

    device: machine.device; `cpu` uses no GPU
    meet_seconds: how long this rank waits for the others (machine.meet_seconds)
    hang_seconds: after how long a silent rank is ended (machine.hang_seconds)

    Raises ValueError where a rank has no GPU of its own, RuntimeError where other ranks do not join
    within `meet_seconds`.
    """
    size = started_ranks()
    if size == 1:
        return ALONE
    names = ENVIRONMENTS[0] if "RANK" in os.environ else ENVIRONMENTS[1]
    rank, local = int(os.environ[names[0]]), int(os.environ.get(names[2], "0"))
    gpu = own_gpu(rank, local) if device != "cpu" and torch.cuda.is_available() else None
    store, where = open_store(rank, size, meet_seconds)
    part = f"scaling-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    gpus = roll_call(
        StoreBoard(PrefixStore(part, store)),
        rank=rank,
        size=size,
        where=where,
        seconds=meet_seconds,
        description=f"{socket.gethostname()} {gpu_name(gpu)}",
    )
    refuse_shared_gpus(gpus)
    board = StoreBoard(PrefixStore(part, store.clone()))
    keeper = None if at_agent() else 0
    presence = Presence(board, rank, size, hang_seconds, keeper=keeper)
    return join_group(PrefixStore(f"{part}-group", store), gpu=gpu, presence=presence)


def own_gpu(rank: int, local: int) -> int:
    """Return the GPU of a rank, the `local`-th of its node; ValueError where it has none.

    `srun --gpus-per-task` shows each task its own GPUs alone, numbered from 0.
    """
    count = torch.cuda.device_count()
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()]
    if by_srun() and ("SLURM_GPUS_PER_TASK" in os.environ or len(visible) == count == 1):
        return 0
    if local >= count:
        raise ValueError(
            f"rank {rank} has no GPU of its own ({count} here); start fewer ranks a node, "
            "or set machine.device=cpu"
        )
    return local


def gpu_name(gpu: int | None) -> str:
    """Return the unique id of a GPU; empty for no GPU, and where the driver gives no id."""
    if gpu is None:
        return ""
    with suppress(AttributeError, AssertionError, RuntimeError):
        return str(torch.cuda.get_device_properties(gpu).uuid)
    return ""


def refuse_shared_gpus(gpus: list[str]) -> None:
    """Raise ValueError where two ranks have the same GPU; gpus: node and GPU id of each rank."""
    for rank, gpu in enumerate(gpus):
        other = gpus.index(gpu)
        if other < rank and gpu.partition(" ")[2]:
            raise ValueError(
                f"ranks {other} and {rank} have one GPU of {gpu.partition(' ')[0]} together; give "
                "each its own (srun --gpus-per-task=1), start fewer ranks a node, or set "
                "machine.device=cpu"
            )


def at_agent() -> bool:
    """Say whether torchrun's agent keeps the ranks' store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def open_store(rank: int, size: int, seconds: float) -> tuple[Any, str]:
    """Open the store at MASTER_ADDR and MASTER_PORT; return it with that address."""
    host, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "")
    if not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"MASTER_PORT={port or 'unset'} is no port; export MASTER_PORT, a number from 1 to "
            "65535 that is free on rank 0's node, beside MASTER_ADDR"
        )
    where, is_keeper = f"{host}:{port}", rank == 0 and not at_agent()
    try:
        with call_after(
            WAIT_SECONDS, lambda: log.info("%s", waiting_for(rank, size, [0], where, seconds))
        ):
            store = TCPStore(
                host,
                int(port),
                size,
                is_master=is_keeper,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=True,
            )
    except RuntimeError as error:
        if is_keeper:
            raise RuntimeError(
                f"rank 0 cannot open {where} ({str(error).splitlines()[0]}); set MASTER_PORT to a "
                "port that is free on its node"
            ) from error
        raise RuntimeError(missing_ranks(rank, size, [0], where, seconds)) from error
    return store, where


def join_group(store: Any, *, gpu: int | None, presence: Presence) -> World:
    """Form a process group with the ranks that use the same store, on this rank's GPU or on CPU.

    torch's own time limits are switched off: they would end work that takes long without being
    hung. `presence` tells the two apart.
    """
    if gpu is not None:
        torch.cuda.set_device(gpu)
    rank_exit.joined.set()
    _presences.append(presence)
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
    """Leave the process group; after LEAVE_SECONDS go on though its threads still run."""
    while _presences:
        _presences.pop().stop()
    if not distributed.is_initialized():
        return

    def destroy() -> None:
        with suppress(RuntimeError):  # of a collective whose other rank is gone
            distributed.destroy_process_group()

    thread = threading.Thread(target=destroy, daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)


_presences: list[Presence] = []  # of the process group that this process is in


def hold_at_all_ranks(world: World, hold: Hold) -> Hold:
    """Return a `hold` for every rank: rank 0 takes the lease, and Held is raised at all or none."""

    @contextmanager
    def hold_at_all(cell: CellConfig, folder: Path) -> Iterator[None]:
        with ExitStack() as stack:
            other = None  # the attempt of the process that has the cell
            if world.first:
                try:
                    stack.enter_context(hold(cell, folder))
                except Held as error:
                    other = error.attempt
            if other := world.share(other):
                raise Held(other)
            with name_lost_rank(world):
                yield

    return hold_at_all
