"""Compiles kernels for one core of a CPU, by numba, and binds them to the memory of tensors.

Arrays are of float32, or of bfloat16 as uint16 (numpy has no bfloat16): `get` widens by a shift,
`put` rounds to nearest even, so that one source works for both. Machine code is stored on disk,
beside the module or in the user's cache, by processor and by source. The classes of numba that do
so are not public. Where they are not as this module expects, nothing is stored and every process
compiles the kernels.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

try:
    from numba.core.caching import IndexDataCacheFile
except ImportError:
    IndexDataCacheFile: Any = object  # lacks the methods that `Files` needs

log = logging.getLogger(__name__)
REORDERED = {"reassoc", "contract", "arcp", "nsz", "afn"}  # Fast maths without "no NaN", "no inf".
OPTIONS: dict[str, Any] = {"fastmath": REORDERED, "error_model": "numpy"}
f32, i32, u16, u32 = np.float32, np.int32, np.uint16, np.uint32

inline = njit(**OPTIONS)  # For functions that kernels call.


def kernel(function: Callable) -> Callable:
    """Compile a function at its first call with a dtype, or read the code from disk."""
    if not all(hasattr(IndexDataCacheFile, name) for name in NEEDED):
        return inline(function)
    try:
        compiled: Any = njit(cache=True, **OPTIONS)(function)
        files = compiled._cache._cache_file
        stamp = files._source_stamp, Path(__file__).stat().st_mtime  # of get and put too
        name = files._index_name.removesuffix(".nbi")
        compiled._cache._cache_file = Files(files._cache_path, name, stamp)
    except (RuntimeError, AttributeError, TypeError):  # no folder to write to; another numba
        return inline(function)
    return compiled


NEEDED = (  # The methods of numba's class that `Files` uses.
    "_data_name", "_data_path", "_dump", "_open_for_write", "_save_index", "_load_index",
)  # fmt: skip


class Files(IndexDataCacheFile):
    """numba's files of compiled code, named by a hash of their key.

    numba numbers the files. Two processes that compile for different dtypes at once take the same
    number, and a third then reads the code for one dtype as that for the other.
    """

    def save(self, key: Any, data: Any) -> None:
        """Store the code of a key, unless the disk is full."""
        key_hash = hashlib.sha256(repr((key, self._source_stamp)).encode()).hexdigest()
        name = self._data_name(int(key_hash[:12], 16))
        with suppress(OSError):
            self._save_data(name, data)
            self._save_index(self._index() | {key: name})

    def load(self, key: Any) -> Any:
        """Return the code of a key; None where it is missing or damaged, and is compiled again."""
        name = self._index().get(key)
        try:
            return None if name is None else self._load_data(name)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  damaged bytes may raise anything
            log.warning("compiled code in %s is damaged (%s); it is compiled again", name, error)
            return None

    def _index(self) -> dict[Any, str]:
        try:
            return self._load_index()
        except Exception as error:  # noqa: BLE001  as above
            log.warning("the index %s is damaged (%s); it is made again", self._index_path, error)
            return {}

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(code).digest() + code)

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        size = hashlib.sha256().digest_size
        if hashlib.sha256(content[size:]).digest() != content[:size]:
            raise ValueError("it differs from its sha256")
        return pickle.loads(content[size:])


def bind(compiled: Callable, *values: Any) -> Callable[..., Any]:
    """Return a call of a kernel on the memory of tensors; floats become float32."""
    return partial(compiled, *map(as_array, values))


def as_array(value: Any) -> Any:
    """Return a tensor's memory as an array, bfloat16 as uint16; return a float as float32."""
    if isinstance(value, float):
        return f32(value)
    if not isinstance(value, Tensor):
        return value
    tensor = value.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def get(array: Any, at: Any) -> Any:
    """Return an element as float32."""
    raise NotImplementedError("only in a kernel")


def put(array: Any, at: Any, value: Any) -> None:
    """Write a float32 to an element."""
    raise NotImplementedError("only in a kernel")


@overload(get)
def _get(array, at):
    if array.dtype == types.uint16:
        return lambda array, at: u32(u32(array[at]) << u32(16)).view(f32)
    return lambda array, at: array[at]


@overload(put)
def _put(array, at, value):
    def rounded(array, at, value):
        bits = f32(value).view(u32)
        odd = u32(u32(bits >> u32(16)) & u32(1))
        array[at] = u16(u32(bits + u32(0x7FFF) + odd) >> u32(16))

    def exact(array, at, value):
        array[at] = value

    return rounded if array.dtype == types.uint16 else exact
