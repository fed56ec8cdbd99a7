"""Tensors on disk: a safetensors file that is whole or absent, and whose damage is seen.

The header holds a sha256 of every tensor and of the header's own text, so that a flipped byte
anywhere is seen by the reader. Files of earlier versions have no hashes: only their size is
checked.
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

HASHES = "sha256"  # The header's entry: JSON of name -> sha256, "" for the rest of the header.
WORTH_THREADS = 16 << 20  # Bytes to hash from which threads pay: starting them takes milliseconds.
HASHED_AT_ONCE = 8  # Threads that hash: hashing releases Python's lock; a core makes 0.2-2 GB/s.


class Damaged(ValueError):
    """A file's content differs from what was written."""


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    """Write tensors and a header of texts; OSError (a full disk) leaves the former file."""
    on_cpu = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    entries = {**header, HASHES: json.dumps(_hashes(on_cpu, header))}
    with replacing(path) as temporary:
        try:
            save_file(on_cpu, temporary, metadata=entries)
            _sort_header(Path(temporary))
        except SafetensorError as error:  # the writer of safetensors raises this for a full disk
            raise OSError(
                f"cannot write {path}: {error}; free space or change the folder"
            ) from error
    return path


def _sort_header(path: Path) -> None:
    """Sort the header's texts in place: safetensors writes them in random order.

    The same weights must be the same bytes: stages trained from them are named by their sha256.
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
    """Open a file for reading; Damaged where it is cut or no safetensors file."""
    with path.open("rb"):  # safetensors would say "not found" of a file without read permission
        pass
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except SafetensorError as error:
        raise Damaged(f"{path} is damaged ({_first_line(error)}); put a copy back") from error


def damage(path: Path) -> str:
    """Say how a file's content differs from what was written; empty where it does not."""
    try:
        with ExitStack() as stack:
            file = open_tensors(path, stack)
            header = dict(file.metadata() or {})
            hashes = header.pop(HASHES, None)
            if hashes is None:
                return ""
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _differing(json.loads(hashes), _hashes(tensors, header))
    except (Damaged, SafetensorError, json.JSONDecodeError) as error:
        return _first_line(error.__cause__ or error)


def _differing(written: Any, now: dict[str, str]) -> str:
    if not isinstance(written, dict) or written.keys() != now.keys():
        return "its header holds other tensors than were written"
    wrong = [name or "the header" for name in now if written[name] != now[name]]
    return f"{', '.join(wrong[:3])} differs from its sha256" if wrong else ""


def _hashes(tensors: dict[str, Tensor], header: dict[str, str]) -> dict[str, str]:
    if sum(t.nbytes for t in tensors.values()) < WORTH_THREADS:
        hashes = {name: _hash(tensor) for name, tensor in tensors.items()}
    else:
        with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:
            hashes = dict(zip(tensors, threads.map(_hash, tensors.values()), strict=True))
    text = json.dumps(header, sort_keys=True)
    return {**hashes, "": hashlib.sha256(text.encode()).hexdigest()}


def _hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
