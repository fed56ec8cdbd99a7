"""Checkpoints without pickle: one safetensors file, replaced atomically, whole or not at all.

The file holds weights, the optimiser's tensors and, as JSON in the header, the state (step, sums),
so that a resumed run repeats an unbroken one bit for bit on CPU. Where each rank holds a part of
the weights, each writes its rows to a file of its own in a folder. The checkpoint names this folder
and is written last. Any number of ranks can read it.

The part files are written by hand and not by torch.distributed.checkpoint: its safetensors writer
leaves no pickle, but hashes nothing and overwrites in place, so a damaged part would go unseen.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaling.schema import set_aside
from scaling.train.ranks import ALONE, World, divided_as, is_part, own_part, whole
from scaling.train.tensor_files import Damaged, damage, open_tensors, write_tensors

log = logging.getLogger(__name__)


def save(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    state: dict[str, Any] | None = None,
    name: str = "checkpoint",
    world: World = ALONE,
) -> Path:
    """Write `folder/name.safetensors`; OSError (a full disk) leaves the former file as it was.

    folder: of rank 0, which all ranks use
    model: whose weights are written
    optimizer: whose moments are written; None writes none
    state: values for JSON: step, sums
    name: of the file, without its ending
    world: the ranks that each hold a part of the weights; all of them must call this
    """
    path = Path(world.share(str(folder))) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v for k, v in weights(model).items()}
    if optimizer is not None:
        tensors |= {f"optimizer.{k}": v for k, v in _moments(optimizer).items()}
    header = {"state": json.dumps(state or {}, allow_nan=False)}
    parts = {k: v.to_local() for k, v in tensors.items() if is_part(v)}  # type: ignore[attr-defined]
    if not parts:
        return write_tensors(path, tensors, header)
    header["shards"] = world.share(f"{path.stem}.shards-{uuid.uuid4().hex[:12]}")
    shards = path.parent / header["shards"]
    shards.mkdir(exist_ok=True)
    error = None
    try:
        write_tensors(shards / f"{world.rank:05}.safetensors", parts, {})
    except OSError as full:
        error = str(full)
    errors = [e for e in world.all_of(error) if e]
    if errors:
        shutil.rmtree(shards, ignore_errors=True)
        raise OSError(errors[0])
    if world.first:
        write_tensors(path, {k: v for k, v in tensors.items() if k not in parts}, header)
        for former in set(path.parent.glob(f"{path.stem}.shards-*")) - {shards}:
            shutil.rmtree(former, ignore_errors=True)
    world.all_of(None)  # no rank goes on before the file is there
    return path


def save_whole(path: Path, model: nn.Module, world: World, *, state: dict[str, Any]) -> None:
    """Write a model's weights as one file, gathered from the ranks that hold parts of them."""
    tensors = {f"model.{k}": whole(v).cpu() for k, v in weights(model).items()}
    if world.first or not any(map(is_part, weights(model).values())):
        write_tensors(path, tensors, {"state": json.dumps(state)})


def load(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    name: str = "checkpoint",
) -> dict[str, Any] | None:
    """Read a checkpoint into model and optimiser; return its state, None where there is no file.

    Raises ValueError where the checkpoint is of another model. A file that may be damaged goes
    through `set_aside_damaged` first.

    folder: where the file is
    model: filled in place
    optimizer: filled in place; None leaves the moments unread
    name: of the file, without its ending
    """
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        return None
    with ExitStack() as stack:
        tensors = Stored(path, stack)
        _into_model(model, _WithPrefix(tensors, "model."), path)
        if optimizer is not None:
            _into_optimizer(optimizer, _WithPrefix(tensors, "optimizer."))
        return json.loads(tensors.header["state"])


def peek(path: Path) -> dict[str, Any]:
    """Return only a checkpoint's state; empty where the file is missing or cannot be read."""
    try:
        with ExitStack() as stack:
            return json.loads(open_tensors(path, stack).metadata()["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Read a checkpoint's weights into `model`; ValueError when they do not fit."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint {path}; run the stage that makes it, or correct the path"
        )
    refuse_damaged(path)
    with ExitStack() as stack:
        _into_model(model, _WithPrefix(Stored(path, stack), "model."), path)


def refuse_damaged(path: Path) -> None:
    """Raise Damaged, with the way to get the weights back, for a file that was changed."""
    if why := damage(path):
        raise Damaged(
            f"{path} is damaged ({why}); put a copy back, or delete {path.parent / 'record.json'} "
            "and run the command that trained it again"
        )


def set_aside_damaged(folder: Path, name: str = "checkpoint") -> bool:
    """Rename a checkpoint that is damaged; return whether it was damaged.

    Training then goes back to the last state before it, or to the start.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        return False
    parts = [f"{p.name}: {why}" for p in shards_of(path) if (why := damage(p))]
    why = damage(path) or "; ".join(parts)
    if why:
        set_aside(path, f"{why}; training goes back to the state before it")
    return bool(why)


def shards_of(path: Path) -> list[Path]:
    """Return a checkpoint's files of ranks; none where there are none or it cannot be read."""
    try:
        with ExitStack() as stack:
            name = (open_tensors(path, stack).metadata() or {}).get("shards")
    except Damaged:
        return []
    return sorted((path.parent / name).glob("*.safetensors")) if name else []


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state without the second name of shared weights (a tied head)."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


class Stored(Mapping[str, Tensor]):
    """A checkpoint's tensors, each read on access and put together from the files of ranks."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        first = open_tensors(path, stack)
        self.header: dict[str, str] = first.metadata()
        files = [first]
        if "shards" in self.header:
            folder = path.parent / self.header["shards"]
            files += [open_tensors(p, stack) for p in sorted(folder.glob("*.safetensors"))]
        self._holders: dict[str, list[Any]] = {}
        for file in files:
            for name in file.keys():  # noqa: SIM118
                self._holders.setdefault(name, []).append(file)

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor."""
        parts = [file.get_tensor(name) for file in self._holders[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._holders)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._holders)


class _WithPrefix(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, under their names without the prefix."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._names = [k.removeprefix(prefix) for k in tensors if k.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _into_model(model: nn.Module, stored: Mapping[str, Tensor], path: Path) -> None:
    own = weights(model)
    unfit = sorted(own.keys() ^ set(stored))
    for name, tensor in own.items():
        if unfit or (value := stored[name]).shape != tensor.shape:
            raise ValueError(
                f"{path} is of another model ({', '.join(unfit[:3] or [name])} differ); "
                "use the config it was made with"
            )
        tensor.copy_(divided_as(tensor, value))


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{i}.{key}": value
        for i, weight in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(weight, {}).items()
    }


def _into_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    for i, weight in enumerate(_parameters(optimizer)):
        for name, value in _WithPrefix(stored, f"{i}.").items():
            state = optimizer.state[weight]
            value = value.to(weight.device) if name == "step" else divided_as(weight, value)
            if name in state:  # in place: the optimiser may hold the same tensor under another name
                state[name].copy_(value)
            else:
                state[name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy this rank's weights and optimiser state to the CPU (the trunk, while a branch trains).

    Not into pinned memory: the copies take seconds of a branch, and torch keeps pinned memory.
    """
    return {k: v.to("cpu", copy=True) for k, v in _own_tensors(model, optimizer).items()}


@torch.no_grad()
def restore(model: nn.Module, optimizer: torch.optim.Optimizer, copy: dict[str, Tensor]) -> None:
    """Put a snapshot of the same model and optimiser back in place."""
    for i, weight in enumerate(_parameters(optimizer)):
        if not _WithPrefix(copy, f"optimizer.{i}."):
            optimizer.state.pop(weight, None)
    for name, tensor in _own_tensors(model, optimizer).items():
        tensor.copy_(copy[name])


def _own_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return this rank's part of weights and optimiser state."""
    tensors = {f"model.{k}": own_part(v) for k, v in weights(model).items()}
    moments = {f"optimizer.{k}": own_part(v.detach()) for k, v in _moments(optimizer).items()}
    return tensors | moments


@torch.no_grad()
def spread(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Replace every other rank's weights and optimiser state by rank 0's.

    Tensors go from device to device. Only names, shapes and types are sent as objects.
    """
    for tensor in weights(model).values():
        world.broadcast_(tensor)
    parameters = _parameters(optimizer)
    states = [optimizer.state.get(weight, {}) for weight in parameters]
    kinds = [{k: [list(v.shape), str(v.dtype)] for k, v in state.items()} for state in states]
    for weight, kind in zip(parameters, world.share(kinds), strict=True):
        if not kind:
            optimizer.state.pop(weight, None)
        for name, (shape, dtype) in kind.items():
            state = optimizer.state[weight]
            if name not in state:
                dtype = getattr(torch, dtype.removeprefix("torch."))
                state[name] = torch.empty(shape, dtype=dtype, device=weight.device)
            world.broadcast_(state[name])
