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

CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
FRAMING = frozenset(("PROTO", "FRAME", "STOP"))

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
    """The stack and the memo on which the instructions of a pickle work; `do_x` carries out instruction X."""

    def __init__(self, limit: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = limit

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self.stack.append(tuple(self.take(TUPLES[name])))
        elif name not in FRAMING:
            method = getattr(self, f"do_{name.lower()}", None)
            if method is None:
                raise _NotPlainError(f"the instruction {name}")
            method(*(() if argument is None else (argument,)))

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
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("it closes what it never opened")
        taken = self.take(len(self.stack) - at - 1) if at + 1 < len(self.stack) else []
        self.stack.pop()
        return taken

    def top(self, kind: type) -> Any:
        """The list or dictionary that items are added to."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"items are added to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    # Containers

    def do_mark(self) -> None:
        self.stack.append(_MARK)

    def do_empty_list(self) -> None:
        self.stack.append([])

    def do_empty_dict(self) -> None:
        self.stack.append({})

    def do_list(self) -> None:
        self.stack.append(self.take_to_mark())

    def do_tuple(self) -> None:
        self.stack.append(tuple(self.take_to_mark()))

    def do_dict(self) -> None:
        items = self.take_to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def do_append(self) -> None:
        (value,) = self.take(1)
        self.top(list).append(value)

    def do_appends(self) -> None:
        values = self.take_to_mark()
        self.top(list).extend(values)

    def do_setitem(self) -> None:
        key, value = self.take(2)
        self.top(dict)[key] = value

    def do_setitems(self) -> None:
        items = self.take_to_mark()
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    # Values that occur more than once

    def do_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def do_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_binput = do_long_binput = do_put
    do_binget = do_long_binget = do_get

    # NumPy's arrays, numbers and types, by name

    def do_global(self, name: str) -> None:
        if name not in NAMES:
            raise _NotPlainError(f"'{name.replace(' ', '.')}'")
        self.stack.append(_Name(NAMES[name]))

    def do_stack_global(self) -> None:
        module, name = self.take(2)
        self.do_global(f"{module} {name}")

    def do_reduce(self) -> None:
        """Rebuild what a name of NumPy and its arguments stand for; nothing is called by that name."""
        name, arguments = self.take(2)
        if not isinstance(name, _Name):
            raise _NotPlainError("a call")
        self.stack.append(self.rebuilt(name, arguments))

    def do_build(self) -> None:
        """Fill the announced array or type on the stack with its state."""
        (state,) = self.take(1)
        pending = self.stack[-1]
        if not isinstance(pending, _Pending) or pending.value is not None:
            raise _NotPlainError("the state of an object")
        if pending.code:
            pending.value = np.dtype(pending.code).newbyteorder(state[1])
        else:
            _, shape, dtype, column_major, data = state
            pending.value = self.array(data, dtype, shape, "F" if column_major else "C")

    def rebuilt(self, name: str, arguments: Any) -> Any:
        """What a name of `NAMES` makes of its arguments."""
        if name == "dtype":
            if not NUMERIC_TYPE.fullmatch(arguments[0]):
                raise _NotPlainError(f"an array of the type '{arguments[0]}'")
            return _Pending(arguments[0])
        if name == "_reconstruct":
            return _Pending()
        if name == "scalar":
            dtype, data = arguments
            return self.array(data, dtype, (), "C").item()
        if name == "_frombuffer":
            data, dtype, shape, order = arguments[:4]
            return self.array(data, dtype, shape, order)
        if name == "encode" and arguments[1] == "latin1":  # how bytes are written up to protocol 2
            self.spend(len(arguments[0]))
            return arguments[0].encode("latin1")
        if name == "bytes" and arguments == ():  # and empty ones
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
