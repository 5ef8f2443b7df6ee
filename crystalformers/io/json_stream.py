"""A JSON file element by element, in memory that does not grow with the file.

Data sets are published as one array of a million objects, and they hold NaN, which JSON forbids, Python writes and
streaming parsers refuse. Here Python's own decoder takes one element at a time from a buffer.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

CHUNK = 1 << 20
"""Bytes read at once."""

MAX_ELEMENT = 64 << 20
"""Characters that one element may have."""

_NOT_BLANK = re.compile(r"[^ \t\r\n]")


class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, empty at the end."""


def stream_json(file: Readable) -> Iterator[tuple[str | None, Any]]:
    """The elements of a file that holds an array, or an object whose larger values are arrays.

    Args:
        file: open for reading; only what is decoded at the moment is held.

    Yields:
        (None, element) for each element of an array; for an object (key, element) for each element of an array in it
        and (key, value) for every other value.

    Raises:
        ValueError: if the file is no such JSON, ends too early, or an element is longer than `MAX_ELEMENT`.
    """
    text = _Text(file)
    if text.peek() == "[":
        yield from ((None, element) for element in text.array())
    elif text.peek() == "{":
        for _ in text.items("{", "}"):
            key = text.value()
            text.take(":")
            if text.peek() == "[":
                yield from ((key, element) for element in text.array())
            else:
                yield key, text.value()
    else:
        raise ValueError("the file holds neither a JSON array nor an object")
    if text.peek():
        raise ValueError("there is more after the end of the JSON")


class _Text:
    """The text of a file that has been read and not yet decoded."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False

    def peek(self) -> str:
        """The next character that is not white space, empty at the end of the file."""
        while True:
            rest = _NOT_BLANK.search(self._text, self._at)
            self._at = rest.start() if rest else len(self._text)
            if rest or self._ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def take(self, character: str) -> None:
        """Pass over a character that must come next."""
        if self.peek() != character:
            found = f"'{self.peek()}'" if self.peek() else "the end of the file"
            raise ValueError(f"expected '{character}', found {found}")
        self._at += 1

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each item of an array or object; the caller takes the item."""
        self.take(opening)
        if self.peek() != closing:
            yield
        while self.peek() == ",":
            self.take(",")
            yield
        self.take(closing)

    def array(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        return (self.value() for _ in self.items("[", "]"))

    def value(self) -> Any:
        """The value that comes next."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                if end < len(self._text) or self._ended:  # else a number might go on
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError(f"the JSON is broken or ends too early ({error.msg})") from error
            except RecursionError as error:
                raise ValueError("the JSON is nested too deeply") from error
            if len(self._text) - self._at > MAX_ELEMENT:
                raise ValueError(f"an element is broken or longer than {MAX_ELEMENT >> 20} million characters")
            self._read()

    def _read(self) -> None:
        """Read at least as much as is left, so that a long element is scanned few times."""
        left = self._text[self._at :]
        data = self._file.read(max(CHUNK, len(left)))
        self._ended = not data
        self._text, self._at = left + self._utf8.decode(data, final=self._ended), 0
