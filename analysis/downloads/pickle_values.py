"""Read a pickle as plain data, without importing or calling anything that it names.

A pickle is a program: `pickle.loads` imports the functions that the file names and calls them, so
that a file from the network may do anything. This reader takes the opcodes apart with `pickletools`
and builds str, bytes, numbers, lists, tuples and dicts. Where the file asks to import a function or
to call one, it writes down the name and the arguments (`Name`, `Call`) and does neither: no name is
looked up, no class of the file's choice is made, and no method of the file's choice runs. An opcode
outside the short list below is refused. What a `Call` means is decided by code of ours
(`analysis.downloads.frames`), from the few names that it knows.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 256 << 20  # bytes of a pickle; the largest that we read has 8 MB


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; it is never looked up."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for and that is never made.

    of: what would be called
    args: its arguments
    state: what the result would be filled with, None for nothing
    """

    of: Any
    args: tuple[Any, ...]
    state: Any = None


class _Mark:
    """The place on the stack at which a list of items begins."""


_MARK = _Mark()
_VALUES = (  # opcodes that push their argument
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NOTHING = ("PROTO", "FRAME", "STOP")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS = ("BINGET", "LONG_BINGET")
_PUTS = ("BINPUT", "LONG_BINPUT")


def plain_values(data: bytes) -> Any:
    """Return what a pickle holds as plain data, `Name` and `Call`.

    data: the pickle, of protocol 2 to 5

    Raises ValueError for bytes that are no pickle, are longer than MOST_BYTES, or use an opcode
    that is not needed for tables.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"the pickle has {len(data):,} bytes; at most {MOST_BYTES:,} are read")
    reader = _Reader()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            reader.read(opcode.name, argument)
        (value,) = reader.stack
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the bytes are no pickle of plain data ({error!r})") from error
    return value


class _Reader:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, opcode: str, argument: Any) -> None:
        """Do what one opcode says, as far as it builds data."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif opcode in _GETS:
            self.stack.append(self.memo[argument])
        elif opcode in _PUTS:
            self.memo[argument] = self.stack[-1]
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode not in _NOTHING:
            self._build(opcode, argument)

    def _build(self, opcode: str, argument: Any) -> None:
        if opcode in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[opcode])))
        elif opcode == "GLOBAL":
            self.stack.append(Name(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            self.stack.append(Name(*self._take(2)))
        elif opcode in ("REDUCE", "NEWOBJ"):
            of, args = self._take(2)
            self.stack.append(Call(of, _is(args, tuple)))
        elif opcode == "BUILD":
            target, state = self._take(2)
            _is(target, Call).state = state
            self.stack.append(target)
        else:
            self._collect(opcode)

    def _collect(self, opcode: str) -> None:
        """Make or fill a list, tuple or dict."""
        if opcode == "MARK":
            self.stack.append(_MARK)
        elif opcode == "EMPTY_LIST":
            self.stack.append([])
        elif opcode == "EMPTY_DICT":
            self.stack.append({})
        elif opcode == "TUPLE":
            self.stack.append(tuple(self._to_mark()))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._take(1) if opcode == "APPEND" else self._to_mark()
            _is(self.stack[-1], list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._take(2) if opcode == "SETITEM" else self._to_mark()
            _is(self.stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        else:
            raise ValueError(f"the pickle uses {opcode}, which no table of ours needs")

    def _take(self, n: int) -> list[Any]:
        """Take the last n values from the stack."""
        if len(self.stack) < n:
            raise ValueError("the pickle takes more values than it holds")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def _to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"the pickle uses {type(value).__name__} where it needs {kind.__name__}")
    return value
