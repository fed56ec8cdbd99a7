"""Tensors on disk: a safetensors file that is whole or absent, and knows when it was damaged.

The header holds a sha256 of every tensor and of the header's own text, so that a flipped byte
anywhere is seen by the reader. Files of earlier versions, without these, are checked for their
size alone.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scaling.schema import replacing

HASHES = "sha256"  # the header's entry: JSON of name -> sha256, "" for the rest of the header
WORTH_THREADS = 16 << 20  # bytes: starting threads takes some milliseconds
HASHED_AT_ONCE = 8  # threads: hashing lets Python's lock go, and one core makes 0.2 to 2 GB/s


class Damaged(ValueError):
    """A file is not what was written."""


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    """Write tensors and a header of texts; OSError (a full disk) leaves the former file."""
    held = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    entries = {**header, HASHES: json.dumps(_hashes(held, header))}
    with replacing(path) as temporary:
        try:
            save_file(held, temporary, metadata=entries)
            _sort_header(Path(temporary))
        except SafetensorError as error:  # how its writer says "disk full"
            raise OSError(
                f"cannot write {path}: {error}; free space or change the folder"
            ) from error
    return path


def _sort_header(path: Path) -> None:
    """Put the header's texts in order, in place: safetensors writes them in a random one.

    The same weights must be the same bytes: what is trained from them is named by their sha256.
    """
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "both write JSON without spaces"
        stream.seek(8)
        stream.write(text.ljust(size))


def open_tensors(path: Path, stack: ExitStack) -> Any:
    """Open a file for reading; Damaged for one that is no safetensors file or cut."""
    with path.open("rb"):  # a file that may not be read is "not found" to safetensors
        pass
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except SafetensorError as error:
        raise Damaged(f"{path} is damaged ({_first_line(error)}); put a copy back") from error


def damage(path: Path) -> str:
    """Say what is wrong with a file's content; empty where it is what was written."""
    try:
        with ExitStack() as stack:
            file = open_tensors(path, stack)
            header = dict(file.metadata() or {})
            known = header.pop(HASHES, None)
            if known is None:
                return ""
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _differing(json.loads(known), _hashes(held, header))
    except (Damaged, SafetensorError, json.JSONDecodeError) as error:
        return _first_line(error.__cause__ or error)


def _differing(known: Any, found: dict[str, str]) -> str:
    if not isinstance(known, dict) or known.keys() != found.keys():
        return "its header holds other tensors than were written"
    wrong = [name or "the header" for name in found if known[name] != found[name]]
    return f"{', '.join(wrong[:3])} differs from its sha256" if wrong else ""


def _hashes(tensors: dict[str, Tensor], header: dict[str, str]) -> dict[str, str]:
    if sum(t.nbytes for t in tensors.values()) < WORTH_THREADS:
        found = {name: _hash(tensor) for name, tensor in tensors.items()}
    else:
        with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:
            found = dict(zip(tensors, threads.map(_hash, tensors.values()), strict=True))
    text = json.dumps(header, sort_keys=True)
    return {**found, "": hashlib.sha256(text.encode()).hexdigest()}


def _hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
