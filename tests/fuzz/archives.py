"""Right and changed archives of structure files, as `crystalformers screen` reads them."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from crystalformers.screening import archives

DAMAGE = (OSError, *archives.DAMAGE)

Change = Callable[[bytes, random.Random], bytes]

HOSTILE_NAMES = (
    *("../../x.cif", "/etc/x.cif", "a/../../x.cif", "C:\\x.cif", "..\\x.cif", "x" * 300 + ".cif", "x" * 5000, "", "."),
    *("..", "/", "x.cif/", "a\0.cif", "\u202e.cif", "\udc80.cif", "POSCAR", "x.csv", "x.zip", "x.tar.gz", "x.parquet"),
    *("x.json", "x.cif.gz", ".x.cif", "a/.b/x.cif", "\n.cif", "NaCl.cif", "nul", "{}.cif", "%s.cif", "~/x.cif"),
)

TAR_TYPES = b"\0001234567gxLKSXA\xff"
"""Links, devices, folders, sparse files, headers of longer names; and types that do not exist."""

PAX = (
    *({"size": "99999999999999"}, {"size": "-1"}, {"size": "x"}, {"size": "9" * 5000}, {"path": "../../x.cif"}),
    *({"linkpath": "/etc/passwd"}, {"mtime": "nan"}, {"hdrcharset": "BINARY"}, {"path": "x\0.cif"}, {"uid": "1e999"}),
    *({"GNU.sparse.map": "0,9999999999999"}, {"GNU.sparse.size": "9" * 15}, {"GNU.sparse.map": "x"}),
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 12, "GNU.sparse.name": "x.cif"},
)
"""Further headers of a member of a tar archive."""

LONGEST = 1 << 20
"""Bytes of an archive that is not taken apart any more."""


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    data: bytes
    type: bytes = b"0"
    pax: Mapping[str, str] = MappingProxyType({})


def zip_of(members: Sequence[Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for member in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = member.name.encode("utf-8", "replace").decode()
            entry.compress_type = method
            archive.writestr(entry, member.data)
    return buffer.getvalue()


def tar_of(members: Sequence[Member]) -> bytes:
    """A tar archive; the same members give the same bytes."""
    blocks = []
    for member in members:
        entry = tarfile.TarInfo(member.name)
        entry.type, entry.size, entry.pax_headers = member.type, len(member.data), dict(member.pax)
        entry.linkname = "/etc/passwd" if member.type in b"12" else ""
        blocks += [entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), member.data]
        blocks += [bytes(-len(member.data) % tarfile.BLOCKSIZE)]
    return b"".join([*blocks, bytes(2 * tarfile.BLOCKSIZE)])


def changed_zip(change: Change) -> Change:
    """Change members of a zip archive, its fields, or how it is compressed."""

    def changed(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return _zip_field(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LONGEST:
                    return _zip_field(data, rng)
                members = [Member(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        except DAMAGE:
            return _zip_field(data, rng)  # what was changed before may be no archive any more
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        return zip_of(_changed_members(members, change, rng), method)

    return changed


def _zip_field(data: bytes, rng: random.Random) -> bytes:
    """Another number in one of the headers."""
    records = [k for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for k in _places(data, mark)]
    if not records:
        return data
    place = rng.choice(records) + rng.randrange(4, 46)
    length = rng.choice((1, 2, 4))
    value = rng.choice((0, 1, 8, 9, 12, 14, 93, 99, 255, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
    return data[:place] + (value % 256**length).to_bytes(length, "little") + data[place + length :]


def _places(data: bytes, mark: bytes) -> list[int]:
    found = [data.find(mark)]
    while found[-1] >= 0:
        found.append(data.find(mark, found[-1] + 1))
    return found[:-1]


def changed_tar(change: Change) -> Change:
    """Change members of a tar archive, their types and headers."""

    def changed(data: bytes, rng: random.Random) -> bytes:
        members = []
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for entry in archive:
                    if entry.size > LONGEST:
                        return _tar_field(data, rng)
                    opened = archive.extractfile(entry) if entry.isreg() else None
                    members.append(Member(entry.name, opened.read(LONGEST) if opened else b"", entry.type))
        except DAMAGE:
            return _tar_field(data, rng)
        if not members or rng.random() < 0.3:
            return _tar_field(data, rng)
        k = rng.randrange(len(members))
        match rng.randrange(4):
            case 0:
                members[k] = members[k]._replace(type=bytes([rng.choice(TAR_TYPES)]))
            case 1:
                members[k] = members[k]._replace(pax=rng.choice(PAX))
            case _:
                members = _changed_members(members, change, rng)
        try:
            return tar_of(members)
        except ValueError:  # a name or number that the format cannot hold
            return _tar_field(data, rng)

    return changed


def _tar_field(data: bytes, rng: random.Random) -> bytes:
    """Another number in a header, whose checksum is then right again."""
    if len(data) < 512:
        return data
    start = 512 * rng.randrange(len(data) // 512)
    header = bytearray(data[start : start + 512])
    place, length = rng.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    value = rng.choice(
        (b"", b"7" * length, b"\xff" * length, b"\x80" + bytes(length - 1), b"-1", rng.randbytes(length))
    )
    header[place : place + length] = value[:length].ljust(length, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return data[:start] + bytes(header) + data[start + 512 :]


def _changed_members(members: Sequence[Member], change: Change, rng: random.Random) -> list[Member]:
    """Another content, name or number of files."""
    members = list(members)
    if not members:
        return members
    k = rng.randrange(len(members))
    small = len(members[k].data) < 10**5
    match rng.randrange(6):
        case 0:
            members[k] = members[k]._replace(name=rng.choice(HOSTILE_NAMES))
        case 1:
            members[k] = members[k]._replace(data=bytes(rng.choice((10**6, 10**7))))
        case 2 if small:
            members[k : k + 1] = [members[k]] * rng.choice((2, 100))
        case _ if small:
            members[k] = members[k]._replace(data=change(members[k].data, rng))
        case _:
            del members[k]
    return members
