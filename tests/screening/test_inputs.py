"""Inputs of every kind give each structure once, whatever the size of a part; bad ones cost what is bad."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import many, write_table
from screens import write_folder, write_lemat, write_tar, write_zip

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, DataSetError
from crystalformers.io import Rejected
from crystalformers.screening import archives
from crystalformers.screening.inputs import Structure
from crystalformers.screening.manifest import plan

CRYSTALS = many(10)


def structures(*sources: object, size: int = 3) -> list[Structure]:
    """What all parts of a plan hold, in order."""
    manifest = plan({}, [str(source) for source in sources], size)
    found = [
        [one for piece in part for one in manifest.inputs[piece.input].structures(piece)] for part in manifest.parts
    ]
    assert all(len(part) <= size for part in found) or None in [manifest.expected(range(len(found)))]
    return [one for part in found for one in part]


def crystals(*sources: object, size: int = 3) -> list[Crystal]:
    found = [one.found for one in structures(*sources, size=size)]
    assert all(isinstance(one, Crystal) for one in found), found
    return [one for one in found if isinstance(one, Crystal)]


def same(found: list[Crystal], expected: list[Crystal]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(a.numbers, b.numbers)
        and np.allclose(a.lattice, b.lattice)
        and np.allclose(a.frac_coords, b.frac_coords)
        for a, b in zip(found, expected, strict=True)
    )


def poscars(tmp_path: Path) -> dict[str, bytes]:
    folder = write_folder(tmp_path / "sources", CRYSTALS)
    return {f"deep/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("group", [1, 4, 100])
def test_rows_of_a_table(size: int, group: int, tmp_path: Path) -> None:
    table = pq.read_table(write_table(tmp_path / "table.parquet", CRYSTALS))
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=group)
    found = structures(tmp_path / "table.parquet", size=size)
    assert [(one.file, one.row) for one in found] == [(str(tmp_path / "table.parquet"), k) for k in range(10)]
    assert same([one.found for one in found if isinstance(one.found, Crystal)], CRYSTALS)
    assert [one.found.name for one in found] == [crystal.name for crystal in CRYSTALS]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_the_layout_of_lemat_bulk(size: int, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for k in range(2):
        write_lemat(tmp_path / "data" / f"train-{k}.parquet", CRYSTALS[5 * k : 5 * k + 5])
    found = structures(tmp_path / "data", size=size)
    assert same([one.found for one in found if isinstance(one.found, Crystal)], CRYSTALS)
    assert [(Path(one.file).name, one.row) for one in found] == [
        (f"train-{k}.parquet", n) for k in (0, 1) for n in range(5)
    ]
    assert [one.found.name for one in found] == [f"agm{n}" for _ in (0, 1) for n in range(5)]


def test_lattice_vectors_in_columns_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crystalformers.data.sets.formats.vectors_are_columns", lambda _: True)
    write_lemat(tmp_path / "a.parquet", CRYSTALS)
    with pytest.raises(DataSetError, match="are the columns of lattice_vectors"):
        structures(tmp_path / "a.parquet")


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_archives(ending: str, size: int, tmp_path: Path) -> None:
    write = write_zip if ending == ".zip" else write_tar
    archive = write(tmp_path / f"all{ending}", poscars(tmp_path))
    found = crystals(archive, size=size)
    assert same(found, sorted(CRYSTALS, key=lambda crystal: crystal.name))
    assert [crystal.name for crystal in found] == sorted(f"deep/{crystal.name}.vasp" for crystal in CRYSTALS)


def test_a_folder_of_everything(tmp_path: Path) -> None:
    """Tables and archives in a folder are inputs of their own, hidden files are none, others are told."""
    folder = write_folder(tmp_path / "all", CRYSTALS[:4])
    (folder / "deep").mkdir()
    write_table(folder / "deep" / "table.parquet", CRYSTALS[4:8])
    write_zip(folder / "a.zip", {"x.cif": b"", ".hidden": b"", "__MACOSX/._x.cif": b""})
    (folder / "notes.txt").write_text("notes")
    (folder / "ids.csv").write_text("id,energy\n")
    (folder / ".hidden").write_text("")
    found = structures(folder)
    good = [one for one in found if isinstance(one.found, Crystal)]
    assert [one.found.name.rsplit("/", 1)[-1] for one in good] == [
        "x4",
        "x5",
        "x6",
        "x7",
        *(f"x{k}.vasp" for k in range(4)),
    ]
    bad = {one.found.name.rsplit("/", 1)[-1]: one.found.reason for one in found if isinstance(one.found, Rejected)}
    assert bad.keys() == {"x.cif", "notes.txt", "ids.csv"}
    assert "not a structure file" in bad["notes.txt"]
    assert "table inside a directory" in bad["ids.csv"]


def test_small_inputs_share_a_part_and_others_do_not(tmp_path: Path) -> None:
    tables = [write_table(tmp_path / f"{k}.parquet", CRYSTALS[k : k + 1]) for k in range(5)]
    frames = tmp_path / "frames.extxyz"
    frames.write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n' * 2)
    manifest = plan({}, [str(path) for path in (*tables, frames, tables[0])], 3)
    assert [[piece.input for piece in part] for part in manifest.parts] == [[0, 1, 2], [3, 4], [5], [6]]
    assert manifest.expected([0, 1]) == 5
    assert manifest.expected([2]) is None
    assert len(crystals(frames)) == 2


def test_addresses_of_fsspec(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/some/table.parquet", write_table(tmp_path / "t.parquet", CRYSTALS[:4]).read_bytes())
    system.pipe("/some/all.zip", write_zip(tmp_path / "all.zip", poscars(tmp_path)).read_bytes())
    system.pipe("/some/all.tgz", (write_tar(tmp_path / "all.tgz", poscars_again(tmp_path))).read_bytes())
    system.pipe("/some/deep/x0.vasp", (tmp_path / "sources" / "x0.vasp").read_bytes())
    system.pipe("/some/deep/bad.vasp", b"nothing")
    system.pipe("/some/.hidden.vasp", b"nothing")
    try:
        found = structures("memory://some")
    finally:
        system.rm("/some", recursive=True)
    good = [one for one in found if isinstance(one.found, Crystal)]
    assert [one.file for one in good] == [
        *["memory://some/all.tgz"] * 10,
        *["memory://some/all.zip"] * 10,
        *["memory://some/table.parquet"] * 4,
        "memory://some/deep/x0.vasp",
    ]
    assert same([one.found for one in good if isinstance(one.found, Crystal)][20:24], CRYSTALS[:4])
    (bad,) = [one.found for one in found if isinstance(one.found, Rejected)]
    assert bad.name == bad.where == "memory://some/deep/bad.vasp"
    assert "/tmp" not in str(bad)


def poscars_again(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((tmp_path / "sources").iterdir())}


def test_an_input_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    for source in (tmp_path / "none.parquet", "memory://none", "nonsense://some"):
        with pytest.raises(ConfigError):
            structures(source)


@pytest.mark.parametrize("name", ["a.parquet", "a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"PAR1nothing at all", b"\x1f\x8b\x08nothing", os.urandom(2048)])
def test_a_damaged_file_costs_one_row(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    good = write_table(tmp_path / "good.parquet", CRYSTALS[:2])
    first, *others = structures(tmp_path / name, good)
    assert isinstance(first.found, Rejected)
    assert first.file == first.found.name == str(tmp_path / name)
    assert [one.found.name for one in others] == ["x0", "x1"]


def test_a_table_without_a_column_costs_one_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "a.parquet")
    (bad,) = structures(tmp_path / "a.parquet")
    assert isinstance(bad.found, Rejected)
    assert "column 'atomic_numbers' is missing" in bad.found.reason


def test_bad_rows_are_told_by_number(tmp_path: Path) -> None:
    table = pq.read_table(write_table(tmp_path / "t.parquet", CRYSTALS))
    lattices = table["lattice"].to_pylist()
    lattices[7] = [0.0] * 9
    pq.write_table(table.set_column(table.column_names.index("lattice"), "lattice", [lattices]), tmp_path / "t.parquet")
    (bad,) = [one for one in structures(tmp_path / "t.parquet") if isinstance(one.found, Rejected)]
    assert (bad.row, bad.found.name) == (7, "x7")
    assert "row 7 (x7)" in str(bad.found)


def test_an_input_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "all", CRYSTALS[:4])
    manifest = plan({}, [str(folder)], 3)
    (folder / "another.vasp").write_text("")
    with pytest.raises(ConfigError, match="it has changed since the run began"):
        list(manifest.inputs[0].structures(manifest.parts[1][0]))


# archives of strangers


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    bomb = {"a.cif": bytes(3 << 20)}
    for path in (write_zip(tmp_path / "a.zip", bomb), write_tar(tmp_path / "a.tgz", bomb)):
        (bad,) = structures(path)
        assert isinstance(bad.found, Rejected)
        assert "unpacks to more than" in bad.found.reason


def test_a_long_file_in_an_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALFORMERS_MAX_TEXT", "1")
    files = {"long.cif": os.urandom(1 << 20) * 2, **poscars(tmp_path)}
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        first, *others = structures(path)
        assert "longer than 1 million characters" in str(first.found)
        assert all(isinstance(one.found, Crystal) for one in others)
        assert len(others) == 10


@pytest.mark.parametrize(
    "name", ["../../out.vasp", "/out.vasp", "..\\out.vasp", "a/" * 200 + "x.vasp", "x" * 300 + ".vasp"]
)
def test_nothing_is_written_where_an_archive_says(name: str, tmp_path: Path) -> None:
    content = poscars(tmp_path)["deep/x0.vasp"]
    before = sorted(tmp_path.parent.rglob("out.vasp"))
    for path in (write_zip(tmp_path / "a.zip", {name: content}), write_tar(tmp_path / "a.tar", {name: content})):
        (one,) = structures(path)
        assert isinstance(one.found, Crystal) == (len(name) < 300 or name.startswith("a/"))
        assert "/tmp" not in one.found.name
    assert sorted(tmp_path.parent.rglob("out.vasp")) == before
    assert not Path("/out.vasp").exists()


def test_links_in_an_archive_are_told_and_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"{kind!r}.cif")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    found = [one.found for one in structures(tmp_path / "a.tar")]
    assert len(found) == 4
    assert all("it is a link or device" in str(one) for one in found)


def test_a_damaged_or_encrypted_entry_costs_one_row(tmp_path: Path) -> None:
    files = poscars(tmp_path)
    content = bytearray(write_zip(tmp_path / "a.zip", files).read_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        first, second = archive.infolist()[1:3]
    content[first.header_offset + 60] ^= 0xFF  # its data
    (tmp_path / "a.zip").write_bytes(content)
    found = [one.found for one in structures(tmp_path / "a.zip")]
    assert [isinstance(one, Crystal) for one in found].count(False) == 1
    assert isinstance(found[1], Rejected)
    central = content.index(b"PK\x01\x02", second.header_offset)
    for place in (second.header_offset + 6, content.index(second.filename.encode(), central) - 46 + 8):
        content[place] |= 1  # the flag of encryption
    (tmp_path / "a.zip").write_bytes(content)
    found = [one.found for one in structures(tmp_path / "a.zip")]
    assert [isinstance(one, Crystal) for one in found].count(False) == 2


def test_a_tar_that_ends_too_early_gives_what_it_holds(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", poscars(tmp_path)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 1024 * 5 + 700])
    (bad,) = structures(tmp_path / "cut.tar")
    assert isinstance(bad.found, Rejected)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(whole)
    (tmp_path / "cut.tgz").write_bytes(packed.getvalue()[:-50])
    (bad,) = structures(tmp_path / "cut.tgz")
    assert isinstance(bad.found, Rejected)


def test_a_damaged_member_costs_itself(tmp_path: Path) -> None:
    """Whatever the standard library raises about it: here an LZMA stream, and a name that is empty."""
    files = {**poscars(tmp_path), "": b"no name"}
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.compress_type = name, zipfile.ZIP_LZMA
            archive.writestr(entry, data)
        start = archive.infolist()[3].header_offset + 30 + len(archive.infolist()[3].filename) + 9
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    found = [one.found for one in structures(path)]
    assert [isinstance(one, Crystal) for one in found] == [k not in (3, len(found) - 1) for k in range(len(found))]
    assert len(found) == len(files)


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.map": "x"}, {"GNU.sparse.map": "0"}, {"size": "-1"}, {"GNU.sparse.size": "9" * 15}]
)
def test_headers_that_a_tar_archive_cannot_have(headers: dict[str, str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in poscars(tmp_path).items():
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), headers if "3" in name else {}
            archive.addfile(member, io.BytesIO(data))
    found = [one.found for one in structures(tmp_path / "a.tar")]
    assert sum(isinstance(one, Rejected) for one in found) >= 1
    assert all(one.problem.strip() for one in found if isinstance(one, Rejected))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_damaged_header_is_no_end_of_an_archive(ending: str, tmp_path: Path) -> None:
    """Of what follows it nothing is found; the files are not lost without a word."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in poscars(tmp_path).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content = bytearray(packed.getvalue())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        at = archive.getmembers()[3].offset
    content[at + 148] ^= 1  # the checksum
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "tar.gz" else content)
    (bad,) = [one.found for one in structures(path) if isinstance(one.found, Rejected)]
    assert f"the archive is damaged (no header at byte {at:,})" in bad.reason
    assert str(path) in bad.reason


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_a_header_that_claims_a_long_name_takes_no_memory(ending: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("x.cif")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    content = member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "tgz" else content)
    asked = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    bounded = archives.Bounded(Stream(content), len(content))
    assert bounded.read(8**11) == content
    assert asked == [len(content)]
    (bad,) = structures(path)
    assert isinstance(bad.found, Rejected)
