"""What the calls in a pickle of pandas mean: frames, series, arrays and numbers.

`analysis.downloads.pickle_values` leaves the calls that a pickle asks for as `Call`. This module
knows the few that a table of pandas 2 and numpy needs, by their names, and makes the values itself.
Any other name is refused. Numbers are read from bytes as float64, int64 or bool and nothing else.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.downloads.pickle_values import Call, Name

KINDS = ("f8", "i8", "b1", "O8")  # numpy's codes of the types that are read; O8 holds objects
MOST_VALUES = 10_000_000  # of one array


def value_of(node: Any) -> Any:
    """Return what a value of a pickle means.

    A data frame becomes {column: array}, a series its array, an index its array. Elements of an
    array of objects stay as they are: call `value_of` on each that is needed. Raises ValueError for
    a call of another name, or for arguments that do not fit.
    """
    if not isinstance(node, Call):
        return node
    if not isinstance(node.of, Name) or node.of.name not in _MEANINGS:
        raise ValueError(f"the table names {node.of}, which no table of ours needs")
    try:
        return _MEANINGS[node.of.name](node)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"the table's {node.of.name} does not read ({error!r})") from error


def _dtype(node: Any) -> np.dtype:
    """Return the type of an array: Call(dtype, (code, False, True))."""
    code = node.args[0]
    order = node.state[1] if node.state else "|"
    if node.of.name != "dtype" or code not in KINDS or order not in "<|":
        raise ValueError(f"the table has values of type {code!r}; {', '.join(KINDS)} are read")
    return np.dtype(object) if code == "O8" else np.dtype(code).newbyteorder("<")


def _shaped(values: np.ndarray, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if values.size > MOST_VALUES:
        raise ValueError(f"an array of the table has {values.size:,} values, above {MOST_VALUES:,}")
    return values.reshape(shape, order=order)


def _from_buffer(node: Call) -> np.ndarray:
    """Read numpy's `_frombuffer(bytes, dtype, shape, order)`."""
    data, kind, shape, order = node.args
    return _shaped(_numbers(data, _dtype(kind)), shape, order)


def _reconstructed(node: Call) -> np.ndarray:
    """Read numpy's `_reconstruct` with the state (version, shape, dtype, Fortran order, values)."""
    _, shape, kind, fortran, values = node.state
    order, dtype = "F" if fortran else "C", _dtype(kind)
    if dtype.kind != "O":
        return _shaped(_numbers(values, dtype), shape, order)
    flat = np.empty(len(values), dtype=object)
    flat[:] = values
    return _shaped(flat, shape, order)


def _scalar(node: Call) -> float:
    """Read numpy's `scalar(dtype, bytes)`."""
    kind, data = node.args
    (value,) = _numbers(data, _dtype(kind))
    return value.item()


def _numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "O":
        raise ValueError("the table keeps objects as bytes, which are not read")
    return np.frombuffer(bytes(data), dtype=dtype)


def _block(node: Call) -> tuple[np.ndarray, np.ndarray]:
    """Read a block of pandas: its values (columns, rows) and the columns that they are."""
    values, placement, _ = node.args
    return value_of(values), np.asarray(value_of(placement))


def _index(node: Call) -> np.ndarray:
    """Read an index of pandas: its data, or a range."""
    argument = node.args[1]
    if "data" in argument:
        return np.asarray(value_of(argument["data"]))
    return np.arange(argument["start"], argument["stop"], argument["step"])


def _slice(node: Call) -> np.ndarray:
    return np.arange(*node.args)


def _frame(node: Call) -> dict[str, np.ndarray]:
    """Read a data frame: the rows of its blocks by the names of its columns."""
    blocks, axes = node.state["_mgr"].args
    names, rows = value_of(axes[0]), {}
    for values, places in map(value_of, blocks):
        rows |= {str(names[p]): row for p, row in zip(places, values, strict=True)}
    return {str(name): rows[str(name)] for name in names}


def _series(node: Call) -> np.ndarray:
    """Read a series: the values of its one block, from the state (axes, values, items, ...)."""
    (values,) = node.state["_mgr"].state[1]
    return value_of(values)


_MEANINGS: dict[str, Callable[[Call], Any]] = {
    "DataFrame": _frame,
    "Series": _series,
    "_unpickle_block": _block,
    "_new_Index": _index,
    "slice": _slice,
    "_frombuffer": _from_buffer,
    "_reconstruct": _reconstructed,
    "scalar": _scalar,
}
