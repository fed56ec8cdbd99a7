"""Checkpoints without pickle: one safetensors file, replaced atomically, whole or not at all.

It holds weights, the optimiser's tensors and, as JSON in the header, the state (step, generators,
sums), so that a resumed run repeats an unbroken one bit for bit on CPU.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    state: dict[str, Any] | None = None,
    extra: dict[str, Tensor] | None = None,
    name: str = "checkpoint",
) -> Path:
    """Write `folder/name.safetensors`; OSError (a full disk) leaves the former file as it was."""
    path = Path(folder) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v for k, v in weights(model).items()}
    if optimizer is not None:
        tensors |= {f"optimizer.{k}": v for k, v in _moments(optimizer).items()}
    tensors |= {f"extra.{k}": v for k, v in (extra or {}).items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}
        save_file(
            contiguous, temporary, metadata={"state": json.dumps(state or {}, allow_nan=False)}
        )
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the second is how its writer says "disk full"
        temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot write {path}: {why}; free space or change the folder") from error
    return path


def load(
    folder: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    extra: dict[str, Tensor] | None = None,
    name: str = "checkpoint",
) -> dict[str, Any] | None:
    """Read a checkpoint into model, optimiser and `extra` (filled in place); return its state.

    Returns None where there is no checkpoint; ValueError when it is of another model.
    """
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        state = json.loads(file.metadata()["state"])
    _into_model(model, _part(tensors, "model."), path)
    if optimizer is not None:
        _into_optimizer(optimizer, _part(tensors, "optimizer."))
    if extra is not None:
        extra.update(_part(tensors, "extra."))
    return state


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Read a checkpoint's weights into `model`; ValueError when they do not fit."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no checkpoint {path}; run the stage that makes it, or correct the path"
        )
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys() if k.startswith("model.")}  # noqa: SIM118
    _into_model(model, _part(tensors, "model."), Path(path))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state without the second name of shared weights (a tied head)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach()
    return kept


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _into_model(model: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    own = weights(model)
    unfit = sorted(own.keys() ^ found.keys()) or [k for k in own if own[k].shape != found[k].shape]
    if unfit:
        raise ValueError(
            f"{path} is of another model ({', '.join(unfit[:3])} differ); "
            "use the config it was made with"
        )
    for name, tensor in own.items():
        tensor.copy_(found[name])


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{i}.{key}": value
        for i, weight in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(weight, {}).items()
    }


def _into_optimizer(optimizer: torch.optim.Optimizer, found: dict[str, Tensor]) -> None:
    for i, weight in enumerate(_parameters(optimizer)):
        own = _part(found, f"{i}.")
        if own:
            optimizer.state[weight] = {
                k: v.to(weight.device) if k != "step" else v for k, v in own.items()
            }


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy weights and optimiser state in memory (the trunk, while a branch trains)."""
    held = {f"model.{k}": v for k, v in weights(model).items()}
    held |= {f"optimizer.{k}": v for k, v in _moments(optimizer).items()}
    return {k: v.detach().clone() for k, v in held.items()}


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Tensor]) -> None:
    """Put a snapshot back."""
    _into_model(model, _part(held, "model."), Path("snapshot"))
    optimizer.state.clear()
    _into_optimizer(optimizer, _part(held, "optimizer."))
