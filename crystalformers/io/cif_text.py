"""The data blocks of a CIF and their values; gemmi parses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import gemmi

_LANDMARK = re.compile(r"^(?:(?P<text>;)|[ \t]*(?:data_(?P<header>\S*)|(?P<site>_atom_site_)))", re.I | re.M)
"""Where a line begins or ends a text field, begins a data block, or names a column of its sites."""


@dataclass
class BlockText:
    """Text of one data block, from the line after its header."""

    header: str
    first_line: int
    text: str = ""
    has_sites: bool = False


def split_blocks(text: str) -> Iterator[BlockText]:
    """The data blocks of a file, apart, so that a malformed one costs no other; no block begins in a text field."""
    block, start, in_text = None, 0, False
    for found in _LANDMARK.finditer(text):
        if found["text"]:
            in_text = not in_text
        elif in_text:
            continue
        elif found["site"]:
            if block:
                block.has_sites = True
        else:
            if block:
                block.text = text[start : found.start()]
                yield block
            end = text.find("\n", found.end())
            start = end + 1 if end >= 0 else len(text)
            block = BlockText(found["header"] or "unnamed", text.count("\n", 0, start) + 1)
    if block:
        block.text = text[start:]
        yield block


def parse_block(block: BlockText) -> gemmi.cif.Block | str:
    """The tags and values of a data block, or what is malformed."""
    body = f"data_\n{block.text}\n".encode("ascii", "replace").decode()
    try:
        return gemmi.cif.read_string(body).sole_block()
    except (ValueError, RuntimeError) as error:  # the syntax; a name without value or twice
        found = re.match(r"string:(\d+)[^ ]*(?: in data_[^:]*:)? *(.*)", str(error))
        return f"line {block.first_line + int(found[1]) - 2}: {found[2]}" if found else str(error)


def column(block: gemmi.cif.Block, *tags: str) -> list[str]:
    """Values of the first of the tags that is present, without quotation marks; a single value is a column of one."""
    raw: list[str] = next((list(found) for found in map(block.find_values, tags) if len(found)), [])
    return [text if text in {".", "?"} else gemmi.cif.as_string(text) for text in raw]


def value(block: gemmi.cif.Block, tag: str) -> str:
    """Value of a tag on one line, `?` if it is missing."""
    return " ".join(next(iter(column(block, tag)), "?").split())
