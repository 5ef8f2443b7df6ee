"""The folder of the sets: hashes, given files, full disks, several processes, what an interruption leaves."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue

import pytest
from filelock import FileLock
from host import Host, Page, visible
from miniatures import HTML, JARVIS, PATH, complete, edited, jarvis, modulus_pickles, play

from crystalformers import open_table
from crystalformers.data.sets import DataSet, Store
from crystalformers.data.sets.entry import RemoteFile, Request
from crystalformers.data.sets.network import OFFLINE_VARIABLE
from crystalformers.data.sets.sources import Files
from crystalformers.errors import DataSetError

# Hashes


def test_a_published_hash_must_be_met(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    content = host.pages[PATH].content
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataSetError, match=f"has the SHA-256 {digest}, published is {'0' * 64}.*--sha256 {digest}"):
        store.get(edited(dataset, sha256="0" * 64))
    assert visible(store.root) == []
    store.get(edited(dataset, sha256="0" * 64), Request(store.root, trusted=frozenset([digest])))
    store.remove(JARVIS, forget=True)
    complete(store, edited(dataset, sha256=digest))


def test_a_published_size_must_be_met(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    size = len(host.pages[PATH].content)
    with pytest.raises(DataSetError, match=f"the file has {size} bytes, published are 5"):
        store.get(edited(dataset, size=5))
    assert visible(store.root) == []
    complete(store, edited(dataset, size=size))


def test_the_first_download_is_recorded_and_later_ones_must_meet_it(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    complete(store, dataset)
    store.remove(JARVIS)
    assert visible(store.root) == [f"hashes/{JARVIS}.json"]
    other = jarvis(host, 41)
    digest = hashlib.sha256(host.pages[PATH].content).hexdigest()
    with pytest.raises(DataSetError, match="recorded at the first download"):
        store.get(other)
    assert visible(store.root) == [f"hashes/{JARVIS}.json"]
    jarvis(host)
    complete(store, dataset)
    store.remove(JARVIS)
    jarvis(host, 41)
    store.get(other, Request(store.root, trusted=frozenset([digest])))
    store.remove(JARVIS)
    complete(store, other)  # the hash that the user vouched for is now the recorded one
    store.remove(JARVIS, forget=True)
    jarvis(host)
    complete(store, dataset)


def test_a_damaged_source_is_fetched_again(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    complete(store, dataset)
    source = store.folder(JARVIS) / "source" / "jdft_3d-8-18-2021.json.zip"
    source.write_bytes(b"PK\x03\x04damaged")
    assert store.verify(JARVIS) == [
        f"{source} is not as it was written; run 'crystalformers data get {JARVIS} --again'."
    ]
    (store.folder(JARVIS) / "about.json").unlink()
    complete(store, dataset)


def test_a_damaged_table_is_noticed(host: Host, store: Store) -> None:
    complete(store, jarvis(host))
    table = store.table(JARVIS)
    table.write_bytes(table.read_bytes()[:-1] + b"X")
    assert len(store.verify(JARVIS)) == 1
    store.remove(JARVIS, sources_only=True)
    assert "table.parquet" in store.verify(JARVIS)[0]
    store.get(jarvis(host), again=True)
    assert store.verify(JARVIS) == []


# Without the network


def test_offline(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dataset = jarvis(host)
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    with pytest.raises(DataSetError, match="OFFLINE forbids downloading it; unset the variable, or pass"):
        store.get(dataset)
    assert host.asked == []
    given = tmp_path / "29204826"
    given.write_bytes(host.pages[PATH].content)
    store.get(dataset, Request(store.root, given=(given,)))
    assert len(open_table(JARVIS)) == 40
    assert host.asked == []
    assert given.is_file()
    assert store.get(dataset)["rows"] == 40  # what is here needs no network
    monkeypatch.setenv(OFFLINE_VARIABLE, "0")
    complete(store, dataset)


def test_a_given_file_is_checked_like_a_downloaded_one(host: Host, store: Store, tmp_path: Path) -> None:
    dataset = jarvis(host)
    given = tmp_path / "file.zip"

    def take(dataset: DataSet) -> None:
        store.get(dataset, Request(store.root, given=(given,)))

    with pytest.raises(DataSetError, match="no such file"):
        take(dataset)
    given.write_bytes(HTML)
    with pytest.raises(DataSetError, match="this is no zip file but a web page"):
        take(dataset)
    given.write_bytes(host.pages[PATH].content)
    with pytest.raises(DataSetError, match="published is 000"):
        take(edited(dataset, sha256="0" * 64))
    assert visible(store.root) == []
    take(dataset)
    assert len(open_table(JARVIS)) == 40


def test_given_files_are_told_apart_by_their_names(host: Host, store: Store, tmp_path: Path) -> None:
    contents = modulus_pickles(20, "bulk")
    dataset = play(host, "megnet-bulk", contents, 20)
    assert isinstance(dataset.source, Files)
    names = [file.name for file in dataset.source.files]
    given = [tmp_path / f"download of {name}" for name in names]
    for path, content in zip(given, contents, strict=True):
        path.write_bytes(content)
    with pytest.raises(DataSetError, match=r"2 files were given.*with its name or number in the file name"):
        store.get(dataset, Request(store.root, given=tuple(given[:2])))
    anonymous = tmp_path / "a.pkl"
    shutil.copyfile(given[1], anonymous)
    with pytest.raises(DataSetError, match=r"0 of them are named after bulk_modulus_megnet_val\.pkl"):
        store.get(dataset, Request(store.root, given=(given[0], anonymous, given[2])))
    assert visible(store.root) == []
    store.get(dataset, Request(store.root, given=(given[2], given[0], given[1])))
    assert open_table("megnet-bulk").split == ["train"] * 12 + ["val"] * 4 + ["test"] * 4


def test_the_own_source_of_a_set_may_be_given(host: Host, store: Store) -> None:
    """It is not deleted before it is read, and what else lies beside it does not stay."""
    dataset = jarvis(host)
    complete(store, dataset)
    given = store.folder(JARVIS) / "source" / "jdft_3d-8-18-2021.json.zip"
    (given.parent / ".jdft_3d-8-18-2021.json.zip.part").write_bytes(b"half")
    host.pages.clear()
    store.get(dataset, Request(store.root, given=(given,)), again=True)
    complete(store, dataset)


# The disk


def test_a_disk_that_is_too_small(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = jarvis(host)
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 10, 10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DataSetError, match=r"the disk is full.*let CRYSTALFORMERS_DATA name a folder"):
            store.get(dataset)
    assert visible(store.root) == []
    assert list(store.folder(JARVIS).rglob(".*.part*")) == []
    complete(store, dataset)


class FullDisk(io.BytesIO):
    """A file on a disk with no space left."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_while_a_file_comes(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = jarvis(host)
    real = Path.open

    def full(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        return FullDisk() if mode == "ab" else real(path, mode, *arguments, **options)  # type: ignore[arg-type, call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataSetError, match=r"the disk is full.*free some space"):
            store.get(dataset)
    assert visible(store.root) == []
    assert list(store.folder(JARVIS).rglob(".*.part*")) == []
    complete(store, dataset)


def test_a_disk_that_fills_up_while_the_table_is_written(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    dataset = jarvis(host)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(DataSetError, match="the disk is full"):
            store.get(dataset)
    assert visible(store.root) == [f"{JARVIS}/source/jdft_3d-8-18-2021.json.zip"]  # it is whole
    assert list(store.folder(JARVIS).glob(".*")) == []
    host.asked.clear()
    complete(store, dataset)
    assert host.asked == []


# Several processes


def test_two_processes_at_once(host: Host, store: Store) -> None:
    """The second waits for the first and finds the set there: every file is asked for once."""
    dataset = jarvis(host)
    assert isinstance(dataset.source, Files)
    host.pages[PATH].seconds_per_byte = 2 / len(host.pages[PATH].content)
    code = f"""
        import sys
        sys.path[:0] = ["tests", "tests/data/sets"]
        from dataclasses import replace
        from miniatures import small
        from crystalformers.data.sets import Store, find
        from crystalformers.data.sets.entry import RemoteFile, Request
        from crystalformers.data.sets.sources import Files
        dataset = find({JARVIS!r})
        files = Files((RemoteFile({dataset.source.files[0].name!r}, ({host.url + PATH!r},), "zip"),))
        dataset = replace(dataset, source=files, rows=40, splits=tuple(map(small, dataset.splits)))
        store = Store()
        about = store.get(dataset, Request(store.root, say=print))
        print(about["rows"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].split("\n") for process in processes]
    assert [lines[-2] for lines in printed] == ["40", "40"]
    assert [path for path, _ in host.asked] == [PATH]
    assert len(open_table(JARVIS)) == 40


def test_who_comes_second_says_that_it_waits(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    said = Queue[str]()
    store.root.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        with FileLock(store.root / f".{JARVIS}.lock"):
            second = pool.submit(store.get, dataset, Request(store.root, say=said.put))
            assert said.get(timeout=60) == f"another process works on {JARVIS}; waiting for it"
            assert host.asked == []
        assert second.result(timeout=60)["rows"] == 40


def test_without_its_extra_a_download_names_it(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(DataSetError, match=r"needs the package requests; pip install 'crystalformers\[data\]'"):
        store.get(jarvis(host))
    assert host.asked == []
    assert visible(store.root) == []


def test_what_a_killed_process_left_is_cleared(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    left = store.folder(JARVIS) / ".convert-abc"
    left.mkdir(parents=True)
    (left / "rows.parquet").write_bytes(b"half")
    complete(store, dataset)


def test_names_that_are_no_names(store: Store) -> None:
    for name in ("../x", "a/b", "", ".hidden", "hashes", "x" * 200):
        with pytest.raises(DataSetError, match="a data set cannot be called"):
            store.folder(name)


def test_a_file_has_the_form_it_should_have(host: Host, store: Store) -> None:
    file = RemoteFile("a.pkl", (f"{host.url}/a.pkl",), "pickle")
    host.pages["/a.pkl"] = Page(HTML)
    dataset = replace(jarvis(host), source=Files((file,)))
    with pytest.raises(DataSetError, match="no pickle file but a web page"):
        store.get(dataset)
