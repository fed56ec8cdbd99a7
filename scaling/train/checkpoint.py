"""Checkpoints without pickle: one safetensors file, replaced atomically, whole or not at all.

It holds weights, the optimiser's tensors and, as JSON in the header, the state (step, generators,
sums), so that a resumed run repeats an unbroken one bit for bit on CPU. Where ranks share out the
weights each writes its rows to a file of its own, in a folder that this file names last of all: it
is read by any number of ranks.
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
    extra: dict[str, Tensor] | None = None,
    name: str = "checkpoint",
    world: World = ALONE,
) -> Path:
    """Write `folder/name.safetensors`; OSError (a full disk) leaves the former file as it was.

    With a `world` whose ranks share out the weights all of them must call this; rank 0's folder is
    taken.
    """
    path = Path(world.share(str(folder))) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v for k, v in weights(model).items()}
    if optimizer is not None:
        tensors |= {f"optimizer.{k}": v for k, v in _moments(optimizer).items()}
    tensors |= {f"extra.{k}": v for k, v in (extra or {}).items()}
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
    except OSError as failed:
        error = str(failed)
    errors = [e for e in world.all_of(error) if e]
    if errors:
        shutil.rmtree(shards, ignore_errors=True)
        raise OSError(errors[0])
    if world.first:
        write_tensors(path, {k: v for k, v in tensors.items() if k not in parts}, header)
        for former in set(path.parent.glob(f"{path.stem}.shards-*")) - {shards}:
            shutil.rmtree(former, ignore_errors=True)
    world.all_of(None)  # nobody goes on before the file is there
    return path


def save_whole(path: Path, model: nn.Module, world: World, *, state: dict[str, Any]) -> None:
    """Write a model's weights as one file, gathered where ranks share them out."""
    tensors = {f"model.{k}": whole(v).cpu() for k, v in weights(model).items()}
    if world.first or not any(map(is_part, weights(model).values())):
        write_tensors(path, tensors, {"state": json.dumps(state)})


def load(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    extra: dict[str, Tensor] | None = None,
    name: str = "checkpoint",
) -> dict[str, Any] | None:
    """Read a checkpoint into model, optimiser and `extra` (filled in place); return its state.

    Returns None where there is no checkpoint; ValueError when it is of another model. What may be
    damaged goes through `set_aside_damaged` first.
    """
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        return None
    with ExitStack() as stack:
        tensors = Stored(path, stack)
        _into_model(model, _Part(tensors, "model."), path)
        if optimizer is not None:
            _into_optimizer(optimizer, _Part(tensors, "optimizer."))
        if extra is not None:
            extra.update(_Part(tensors, "extra."))
        return json.loads(tensors.header["state"])


def peek(path: Path) -> dict[str, Any]:
    """Return a checkpoint's state alone; empty where it is missing or cannot be read."""
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
        _into_model(model, _Part(Stored(path, stack), "model."), path)


def refuse_damaged(path: Path) -> None:
    """Raise Damaged for weights that are not what was written, with the way to get them back."""
    if why := damage(path):
        raise Damaged(
            f"{path} is damaged ({why}); put a copy back, or delete {path.parent / 'record.json'} "
            "and run the command that trained it again"
        )


def set_aside_damaged(folder: Path, name: str = "checkpoint") -> bool:
    """Rename a checkpoint that is damaged; say whether it was.

    Training then goes back to the last state before it, or to the start.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        return False
    found = [f"{p.name}: {said}" for p in shards_of(path) if (said := damage(p))]
    why = damage(path) or "; ".join(found)
    if why:
        set_aside(path, f"{why}; training goes back to the state before it")
    return bool(why)


def shards_of(path: Path) -> list[Path]:
    """Return the files of a checkpoint that ranks shared out; none where it cannot be read."""
    try:
        with ExitStack() as stack:
            name = (open_tensors(path, stack).metadata() or {}).get("shards")
    except Damaged:
        return []
    return sorted((path.parent / name).glob("*.safetensors")) if name else []


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state without the second name of shared weights (a tied head)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach()
    return kept


class Stored(Mapping[str, Tensor]):
    """A checkpoint's tensors, each read when it is asked for; those of shards are put together."""

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


class _Part(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, without it."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._names = [k.removeprefix(prefix) for k in tensors if k.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _into_model(model: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    own = weights(model)
    unfit = sorted(own.keys() ^ set(found))
    for name, tensor in own.items():
        if unfit or (value := found[name]).shape != tensor.shape:
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


def _into_optimizer(optimizer: torch.optim.Optimizer, found: Mapping[str, Tensor]) -> None:
    for i, weight in enumerate(_parameters(optimizer)):
        for name, value in _Part(found, f"{i}.").items():
            state = optimizer.state[weight]
            value = value.to(weight.device) if name == "step" else divided_as(weight, value)
            if name in state:  # in its place: the optimiser may hold the tensor by another name
                state[name].copy_(value)
            else:
                state[name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy this rank's weights and optimiser state to the CPU (the trunk, while a branch trains).

    Not into pinned memory: the copies are seconds of a branch, and torch keeps what it pinned.
    """
    return {k: v.to("cpu", copy=True) for k, v in _held(model, optimizer).items()}


@torch.no_grad()
def restore(model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Tensor]) -> None:
    """Put a snapshot of the same model and optimiser back in place."""
    for i, weight in enumerate(_parameters(optimizer)):
        if not _Part(held, f"optimizer.{i}."):
            optimizer.state.pop(weight, None)
    for name, tensor in _held(model, optimizer).items():
        tensor.copy_(held[name])


def _held(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return this rank's part of weights and optimiser state."""
    found = {f"model.{k}": own_part(v) for k, v in weights(model).items()}
    found |= {f"optimizer.{k}": own_part(v.detach()) for k, v in _moments(optimizer).items()}
    return found


@torch.no_grad()
def spread(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Put rank 0's weights and optimiser state in the place of every other rank's.

    Each tensor goes from rank 0's device to the rank's own; names, shapes and types alone go as
    objects.
    """
    for tensor in weights(model).values():
        world.broadcast_(tensor)
    parameters = _parameters(optimizer)
    mine = [optimizer.state.get(weight, {}) for weight in parameters]
    kinds = [{k: [list(v.shape), str(v.dtype)] for k, v in state.items()} for state in mine]
    for weight, kind in zip(parameters, world.share(kinds), strict=True):
        if not kind:
            optimizer.state.pop(weight, None)
        for name, (shape, dtype) in kind.items():
            state = optimizer.state[weight]
            if name not in state:
                dtype = getattr(torch, dtype.removeprefix("torch."))
                state[name] = torch.empty(shape, dtype=dtype, device=weight.device)
            world.broadcast_(state[name])
