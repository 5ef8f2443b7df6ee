"""Pickles read as data: no object is ever built or called because a file says so.

`pickletools.genops` splits a pickle into its instructions; those for plain data are carried out here, every other one
is refused. NumPy arrays and numbers are recognised by the names that NumPy writes, and rebuilt from their bytes.
"""

from __future__ import annotations

import math
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from crystalformers.data.sets.archives import unpacked_limit
from crystalformers.data.sets.entry import SourceFileError

LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
"""Instructions whose argument is a value."""

NAMES = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "__builtin__ bytes": "bytes",
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray _reconstruct": "_reconstruct" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "_frombuffer" for core in ("core", "_core")},
}
"""Names that pickles of plain data and NumPy hold, and what they are called below; any other name is refused."""

NUMERIC_TYPE = re.compile(r"[biuf]\d{1,2}")
"""NumPy types that are read: booleans, integers and real numbers."""

_MARK = object()


def read_plain_pickle(path: Path) -> Any:
    """The lists, dictionaries, tuples, strings, bytes, numbers and NumPy arrays of numbers that a pickle holds.

    Raises:
        SourceFileError: if the pickle is broken or holds anything else, which is then named; nothing has been run.
    """
    machine = _Machine(unpacked_limit(path))
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                machine.step(opcode.name, argument)
            return machine.result(at_end=not file.read(1))
    except _NotPlainError as error:
        raise SourceFileError(
            f"the pickle holds {error}, only plain data are read; nothing was run", where=str(path)
        ) from error
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise SourceFileError(f"the pickle is broken ({error})", where=str(path), remedy="download it again") from error


class _NotPlainError(Exception):
    """Names what is not plain data."""


class _Name(str):
    """A name of `NAMES`: only ever compared, never looked up."""

    __slots__ = ()


class _Pending:
    """An array that a pickle has announced and not yet filled, or a type of numbers (`code` is not empty)."""

    def __init__(self, code: str = "") -> None:
        self.code = code
        self.value: Any = None


class _Machine:
    """The stack and the memo on which the instructions of a pickle work."""

    def __init__(self, limit: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = limit

    def step(self, name: str, argument: Any) -> None:  # noqa: PLR0912 - a case for each kind of instruction
        """Carry out one instruction."""
        stack, memo = self.stack, self.memo
        match name.removeprefix("LONG_").removeprefix("BIN") if name not in LITERALS else "LITERAL":
            case "LITERAL":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.take(int(name[-1]))))
            case "MARK":
                stack.append(_MARK)
            case "LIST" | "TUPLE":
                stack.append({"LIST": list, "TUPLE": tuple}[name](self.take_to_mark()))
            case "DICT":
                stack.append(_paired(self.take_to_mark()))
            case "APPEND" | "APPENDS":
                values = self.take(1) if name == "APPEND" else self.take_to_mark()
                self.top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                items = self.take(2) if name == "SETITEM" else self.take_to_mark()
                self.top(dict).update(_paired(items))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT":
                memo[argument] = stack[-1]
            case "GET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                stack.append(_known("{} {}".format(*self.take(2))))
            case "REDUCE":  # nothing is called by that name
                stack.append(self.rebuilt(*self.take(2)))
            case "BUILD":
                self.fill(*self.take(1))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise _NotPlainError(f"the instruction {name}")

    def result(self, *, at_end: bool) -> Any:
        """What the pickle holds, once all its instructions are carried out."""
        (value,) = self.take(1)
        if self.stack or not at_end:
            raise ValueError("there is more after its end")
        return value

    def take(self, count: int) -> list[Any]:
        """Take values from the stack; an announced array or type is replaced by what it was filled with."""
        if len(self.stack) < count or any(value is _MARK for value in self.stack[-count:]):
            raise ValueError("its stack is empty")
        taken = [value.value if isinstance(value, _Pending) else value for value in self.stack[-count:]]
        del self.stack[-count:]
        return taken

    def take_to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        above = next((k for k, value in enumerate(reversed(self.stack)) if value is _MARK), None)
        if above is None:
            raise ValueError("it closes what it never opened")
        taken = self.take(above) if above else []
        self.stack.pop()
        return taken

    def top(self, kind: type) -> Any:
        """The list or dictionary that items are added to."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"items are added to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def fill(self, state: Any) -> None:
        """Fill the announced array or type on the stack with its state."""
        pending = self.stack[-1]
        if not isinstance(pending, _Pending) or pending.value is not None:
            raise _NotPlainError("the state of an object")
        if pending.code:
            pending.value = np.dtype(pending.code).newbyteorder(state[1])
        else:
            _, shape, dtype, column_major, data = state
            pending.value = self.array(data, dtype, shape, "F" if column_major else "C")

    def rebuilt(self, name: Any, arguments: Any) -> Any:
        """What a name of `NAMES` makes of its arguments."""
        if not isinstance(name, _Name):
            raise _NotPlainError("a call")
        match name, arguments:
            case "dtype", (str(code), *_):
                if not NUMERIC_TYPE.fullmatch(code):
                    raise _NotPlainError(f"an array of the type '{code}'")
                return _Pending(code)
            case "_reconstruct", _:
                return _Pending()
            case "scalar", (dtype, data):
                return self.array(data, dtype, (), "C").item()
            case "_frombuffer", (data, dtype, shape, order, *_):
                return self.array(data, dtype, shape, order)
            case "encode", (str(text), "latin1"):  # how bytes are written up to protocol 2
                self.spend(len(text))
                return text.encode("latin1")
            case "bytes", ():  # and empty ones
                return b""
        raise _NotPlainError(f"a call of {name}")

    def array(self, data: Any, dtype: Any, shape: Any, order: str) -> Any:
        """An array from its bytes."""
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
            raise _NotPlainError("an array of other things than numbers")
        if any(not isinstance(size, int) or size < 0 for size in shape):
            raise ValueError(f"an array has the shape {shape}")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} and type {dtype} has {len(data)} bytes")
        self.spend(len(data))
        return np.frombuffer(bytes(data), dtype).reshape(shape, order="F" if order == "F" else "C")

    def spend(self, count: int) -> None:
        """Count bytes that are copied, so that a small file cannot fill the memory with one value again and again."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise ValueError("it unpacks to much more than its size")


def _paired(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _known(name: str) -> _Name:
    """A name of `NAMES`; any other is refused."""
    if name not in NAMES:
        raise _NotPlainError(f"'{name.replace(' ', '.')}'")
    return _Name(NAMES[name])
