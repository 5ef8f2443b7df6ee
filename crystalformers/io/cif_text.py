"""The data blocks of a CIF and their values; gemmi parses them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import gemmi


@dataclass
class BlockText:
    """Text of one data block, from the line after its header."""

    header: str
    first_line: int
    lines: list[str]
    has_sites: bool = False


def split_blocks(text: str) -> Iterator[BlockText]:
    """The data blocks of a file, apart, so that a malformed one costs no other; no block begins in a text field."""
    block, in_text = None, False
    for number, line in enumerate(text.splitlines(), start=1):
        header = None if in_text else re.match(r"\s*data_(\S*)", line, re.I)
        if header:
            if block:
                yield block
            block = BlockText(header.group(1) or "unnamed", number + 1, [])
            continue
        if line.startswith(";"):
            in_text = not in_text
        if block:
            block.lines.append(line)
            block.has_sites |= not in_text and line.lstrip()[:11].lower() == "_atom_site_"
    if block:
        yield block


def parse_block(text: BlockText) -> gemmi.cif.Block | str:
    """The tags and values of a data block, or what is malformed."""
    body = "\n".join(["data_", *text.lines, ""]).encode("ascii", "replace").decode()
    try:
        return gemmi.cif.read_string(body).sole_block()
    except (ValueError, RuntimeError) as error:  # the syntax; a name without value or twice
        found = re.match(r"string:(\d+)[^ ]*(?: in data_[^:]*:)? *(.*)", str(error))
        return f"line {text.first_line + int(found[1]) - 2}: {found[2]}" if found else str(error)


def column(block: gemmi.cif.Block, *tags: str) -> list[str]:
    """Values of the first of the tags that is present, without quotation marks; a single value is a column of one."""
    raw: list[str] = next((list(found) for found in map(block.find_values, tags) if len(found)), [])
    return [text if text in {".", "?"} else gemmi.cif.as_string(text) for text in raw]


def value(block: gemmi.cif.Block, tag: str) -> str:
    """Value of a tag on one line, `?` if it is missing."""
    return " ".join(next(iter(column(block, tag)), "?").split())
