"""What a screen computes: inputs, models and settings, and its parts, in `manifest.json` of the results folder.

The parts follow from the inputs and the size of a part alone. Whoever runs them, on whatever machine, reads them here;
the same command finds its manifest and goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.files import locked, write_atomically
from crystalformers.screening.addresses import absolute, is_remote
from crystalformers.screening.inputs import (
    Input,
    Piece,
    current_sha256,
    current_stamp,
    find_inputs,
    with_cuts,
)

NAME = "manifest.json"

PART_SIZE = 2048
"""Structures of a part: about ten seconds of one core, which is what a kill can cost."""

SECONDS_TO_PLAN = 3600.0
"""How long a process waits for another one that writes the manifest of the same folder."""

Part = tuple[Piece, ...]


@dataclass(frozen=True)
class Manifest:
    """What is computed.

    Attributes:
        about: models, settings and what is selected of the predictions.
        inputs: what is screened.
        parts: ranges of the inputs; each is run as a whole.
    """

    about: dict[str, Any]
    inputs: list[Input]
    parts: list[Part]

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides what the rows are."""
        inputs = [replace(found, stamp="") for found in self.inputs]
        text = json.dumps([self.about, [asdict(found) for found in inputs], self.parts])
        return hashlib.sha256(text.encode()).hexdigest()

    def expected(self, parts: Sequence[int]) -> int | None:
        """Structures of some parts; None if only reading tells."""
        counts = [piece.length for index in parts for piece in self.parts[index]]
        return None if 0 in counts else sum(counts)

    def write(self, folder: Path) -> None:
        """Write the manifest into the results folder."""
        content = {"about": self.about, "inputs": [asdict(found) for found in self.inputs], "parts": self.parts}
        write_atomically(folder / NAME, json.dumps({"identity": self.identity, **content}).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a results folder.

    Raises:
        ConfigError: if it is damaged.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_bytes())
        parts = [tuple(Piece(*piece) for piece in part) for part in content["parts"]]
        found = Manifest(content["about"], [Input(**given) for given in content["inputs"]], parts)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if found.identity != content["identity"]:
        raise _damaged(path)
    return found


def _damaged(path: Path) -> ConfigError:
    return ConfigError("the manifest is damaged", where=str(path), remedy="screen to a new folder")


def open_manifest(folder: Path, about: dict[str, Any], sources: Sequence[str], size: int = PART_SIZE) -> Manifest:
    """Begin a results folder, or go on with the one that is there.

    Args:
        folder: created if it is not there.
        about: models and settings.
        sources: files, folders, addresses.
        size: structures of a part.

    Raises:
        ConfigError: if the folder belongs to another screen, whose inputs or settings differ, or holds other files, or
            lies in a folder that is screened.
    """
    place, about = folder.absolute(), {**about, "part_size": size}
    for source in map(absolute, sources):
        if not is_remote(source) and place.is_relative_to(source):
            raise ConfigError(f"the results would lie in the input {source}", where=str(folder), remedy="move one")
    if folder.exists() and not (folder / NAME).exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise ConfigError("the folder holds other files", where=str(folder), remedy="name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / NAME, SECONDS_TO_PLAN):
        if (folder / NAME).exists():
            return _same(read_manifest(folder), about, find_inputs(sources), folder)
        planned = plan(about, sources, size)
        planned.write(folder)
    return planned


def _same(known: Manifest, about: dict[str, Any], inputs: Sequence[Input], folder: Path) -> Manifest:
    """The manifest that is there, if it is that of the same screen; with new stamps if only these differ."""
    remedy = "repeat the first command, or name a new folder"
    changed = sorted(key for key in known.about.keys() | about.keys() if known.about.get(key) != about.get(key))
    if changed:
        raise ConfigError(
            f"it belongs to another screen ({', '.join(changed)} changed)", where=str(folder), remedy=remedy
        )
    if [found.address for found in known.inputs] != [found.address for found in inputs]:
        raise ConfigError("it belongs to another screen (the inputs changed)", where=str(folder), remedy=remedy)
    stamps = [current_stamp(found) for found in known.inputs]
    for found, stamp in zip(known.inputs, stamps, strict=True):
        if stamp != found.stamp and current_sha256(found) != found.sha256:
            raise ConfigError(f"the input {found.address} has changed", where=str(folder), remedy=remedy)
    now = [replace(found, stamp=stamp) for found, stamp in zip(known.inputs, stamps, strict=True)]
    if now != known.inputs:
        known = replace(known, inputs=now)
        known.write(folder)
    return known


def plan(about: dict[str, Any], sources: Sequence[str], size: int) -> Manifest:
    """The manifest of a new screen: every input is read once, for its hash and its ranges.

    Raises:
        ConfigError: if an input is not there.
    """
    inputs, pieces = [], []
    for number, given in enumerate(find_inputs(sources)):
        found, cuts = with_cuts(given, size)
        inputs.append(found)
        pieces += [Piece(number, *cut) for cut in cuts]
    return Manifest(about, inputs, list(joined(pieces, size)))


def joined(pieces: Sequence[Piece], size: int) -> Iterator[Part]:
    """Consecutive pieces as parts of at most `size` structures; a piece of unknown length is a part of its own."""
    part: list[Piece] = []
    for piece in pieces:
        alone = piece.length == 0 or any(other.length == 0 for other in part)
        if part and (alone or sum(other.length for other in part) + piece.length > size):
            yield tuple(part)
            part = []
        part.append(piece)
    if part:
        yield tuple(part)
