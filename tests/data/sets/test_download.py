"""What can go wrong on the way: no broken file stays, the message says what to do, and the next try works."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue

import pytest
import requests
from filelock import FileLock
from host import Host, Page, visible
from miniatures import jarvis, matbench_gzip, modulus_pickles, play, zipped

from crystalformers import open_table
from crystalformers.data.sets import DataSet, Store, archives, network
from crystalformers.data.sets.entry import RemoteFile, Request
from crystalformers.data.sets.network import OFFLINE_VARIABLE
from crystalformers.data.sets.sources import Files
from crystalformers.data.table import CrystalTable
from crystalformers.errors import DataSetError

JARVIS = "jarvis-dft3d-2021"
PATH = "/jarvis-dft3d-2021/jdft_3d-8-18-2021.json.zip"
HTML = b"<!DOCTYPE html><html><body>Access denied</body></html>"
BY_OTHER_MEANS = "pass it with --from FILE"


def edited(dataset: DataSet, **changes: object) -> DataSet:
    """The set with another description of its first file."""
    assert isinstance(dataset.source, Files)
    first, *others = dataset.source.files
    return replace(dataset, source=Files((replace(first, **changes), *others)))


def with_mirror(dataset: DataSet, host: Host) -> DataSet:
    """The set with a second address, of the same content."""
    host.pages["/mirror"] = replace(host.pages[PATH])
    return edited(dataset, addresses=(f"{host.url}{PATH}", f"{host.url}/mirror"))


def bomb(member: str, size: int) -> bytes:
    """A zip archive of so many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(member, bytes(size))
    return buffer.getvalue()


def lying_bomb(member: str, size: int) -> bytes:
    """The same, but the archive states a small size in both of its places."""
    content = bytearray(bomb(member, size))
    stated, said = size.to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert content.count(stated) >= 2
    return bytes(content.replace(stated, said))


def html(page: Page) -> None:
    page.content, page.content_type = HTML, "text/html; charset=utf-8"


def disguised_html(page: Page) -> None:
    page.content = HTML


def challenge(page: Page) -> None:
    page.content, page.status, page.content_type = b"", 202, "application/octet-stream"


def truncated(page: Page) -> None:
    page.stop_after = len(page.content) // 2


def truncated_without_length(page: Page) -> None:
    page.content, page.says_length = page.content[: len(page.content) // 2], False


def archive_that_leads_out(page: Page) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.json", b"[]")
        archive.writestr("jdft_3d-8-18-2021.json", b"[]")
    page.content = buffer.getvalue()


def flipped(page: Page) -> None:
    middle = len(page.content) // 2
    page.content = page.content[:middle] + bytes([page.content[middle] ^ 255]) + page.content[middle + 1 :]


FAULTS: dict[str, tuple[Callable[[Page], None], str]] = {
    "403": (lambda page: setattr(page, "status", 403), f"the server answers 403.*{BY_OTHER_MEANS}"),
    "404": (lambda page: setattr(page, "status", 404), f"the server answers 404.*{BY_OTHER_MEANS}"),
    "500": (lambda page: setattr(page, "status", 500), f"the server answers 500.*{BY_OTHER_MEANS}"),
    "202 of a bot check": (challenge, f"the server answers 202.*{BY_OTHER_MEANS}"),
    "HTML with status 200": (html, f"a web page instead of the file.*{BY_OTHER_MEANS}"),
    "HTML as a binary file": (disguised_html, f"no zip file but a web page.*{BY_OTHER_MEANS}"),
    "nothing": (lambda page: setattr(page, "content", b""), f"no zip file but empty.*{BY_OTHER_MEANS}"),
    "truncated": (truncated, "the connection failed or broke off.*try again later"),
    "truncated unnoticed": (truncated_without_length, "the file is broken.*download it again"),
    "a changed byte": (flipped, "the file is broken.*download it again"),
    "slow drip": (lambda page: setattr(page, "seconds_per_byte", 0.02), "bytes per second.*try again later"),
    "redirect loop": (
        lambda page: (setattr(page, "status", 302), setattr(page, "location", PATH)),
        f"redirects in a circle.*{BY_OTHER_MEANS}",
    ),
    "redirect elsewhere": (
        lambda page: (setattr(page, "status", 302), setattr(page, "location", "file:///etc/passwd")),
        f"not an address that can be downloaded from.*{BY_OTHER_MEANS}",
    ),
    "zip bomb": (
        lambda page: setattr(page, "content", bomb("jdft_3d-8-18-2021.json", 30 << 20)),
        r"unpacks to more than \d MB.*download it again",
    ),
    "zip bomb that lies": (
        lambda page: setattr(page, "content", lying_bomb("jdft_3d-8-18-2021.json", 30 << 20)),
        "the file is broken.*download it again",
    ),
    "a path that leaves the folder": (archive_that_leads_out, r"holds '\.\./\.\./evil\.json', a path that leads out"),
    "another archive": (
        lambda page: setattr(page, "content", zipped("readme.txt", b"hello")),
        "the archive holds readme.txt, expected jdft_3d-8-18-2021.json",
    ),
}


def complete(store: Store, dataset: DataSet) -> CrystalTable:
    """Fetch a set, and check that it is whole."""
    store.get(dataset)
    table = open_table(dataset.name)
    assert len(table) == dataset.rows
    assert store.verify(dataset.name) == []
    hidden = [path.name for path in store.folder(dataset.name).rglob(".*")]
    assert hidden == []
    return table


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    dataset = jarvis(host)
    good = replace(host.pages[PATH])
    spoil, message = FAULTS[fault]
    spoil(host.pages[PATH])
    with pytest.raises(DataSetError, match=message):
        store.get(dataset)
    assert visible(store.root) == []
    assert store.names() == []
    with pytest.raises(DataSetError, match="run 'crystalformers data get jarvis-dft3d-2021'"):
        open_table(JARVIS)
    host.pages[PATH] = good
    complete(store, dataset)


FOUND_LATER = (
    "truncated unnoticed",
    "a changed byte",
    "zip bomb",
    "zip bomb that lies",
    "another archive",
    "a path that leaves the folder",
)
"""Faults that only reading the file shows."""


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in FOUND_LATER])
def test_a_mirror_helps(host: Host, store: Store, fault: str) -> None:
    dataset = with_mirror(jarvis(host), host)
    FAULTS[fault][0](host.pages[PATH])
    complete(store, dataset)
    assert host.asked[-1][0] == "/mirror"


def test_a_server_that_is_not_there(host: Host, store: Store) -> None:
    dataset = edited(jarvis(host), addresses=("http://127.0.0.1:9/nothing",))
    with pytest.raises(DataSetError, match="the connection failed or broke off"):
        store.get(dataset)


def test_a_server_that_falls_silent(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    host.pages[PATH].seconds_per_byte = 5
    began = time.monotonic()
    with pytest.raises(DataSetError, match="the server does not answer"):
        store.get(dataset)
    assert time.monotonic() - began < 20


def test_a_busy_server_is_asked_again(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    good = replace(host.pages[PATH])
    host.pages[PATH].status = 503
    said: list[str] = []

    def recover(sentence: str) -> None:
        said.append(sentence)
        host.pages[PATH] = good

    store.get(dataset, Request(store.root, say=recover))
    assert said == ["the server answers 503; trying again in 0.01 s"]


def test_encryption_is_not_given_up(host: Host, store: Store) -> None:
    """An address with https that redirects to one without."""
    answer = requests.Response()
    answer.status_code, answer.url = 200, "http://elsewhere.example/file"
    answer.request = requests.PreparedRequest()
    answer.request.headers = requests.structures.CaseInsensitiveDict()
    network._check_answer(answer, "http://here.example/file")
    with pytest.raises(network.RefusedError, match="leads to an address without encryption"):
        network._check_answer(answer, "https://here.example/file")


def test_encryption_is_not_given_up_on_the_way_or_in_a_resumed_transfer() -> None:
    def answer(url: str, status: int, **headers: str) -> requests.Response:
        made = requests.Response()
        made.status_code, made.url = status, url
        made.request = requests.PreparedRequest()
        made.request.headers = requests.structures.CaseInsensitiveDict(headers)
        return made

    last = answer("https://there.example/file", 200)
    last.history = [answer("http://elsewhere.example/file", 302)]
    for refused in (last, answer("http://elsewhere.example/file", 206, Range="bytes=500-")):
        with pytest.raises(network.RefusedError, match="without encryption, http://elsewhere"):
            network._check_answer(refused, "https://here.example/file")


# Going on where a transfer ended


def test_resume_from_half(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    size = len(host.pages[PATH].content)
    host.pages[PATH].stop_after = size // 2
    with pytest.raises(DataSetError, match="broke off"):
        store.get(dataset)
    host.asked.clear()
    host.sent = 0
    host.pages[PATH].stop_after = None
    complete(store, dataset)
    assert host.asked == [(PATH, f"bytes={size // 2}-")]
    assert host.sent == size - size // 2


def test_an_interrupted_transfer_goes_on_within_one_run(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    size = len(host.pages[PATH].content)
    host.pages[PATH].stop_after, host.pages[PATH].stops = size // 2, 1
    complete(store, dataset)
    assert host.asked == [(PATH, None), (PATH, f"bytes={size // 2}-")]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_ctrl_c_keeps_what_has_come(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(network, "CHUNK", 500)
    dataset = jarvis(host)
    size = len(host.pages[PATH].content)

    def interrupt(_: str, done: int, __: int | None) -> None:
        if done >= share * size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(dataset, Request(store.root, report=interrupt))
    assert visible(store.root) == []
    complete(store, dataset)
    assert len(host.asked) == 2
    start = int((host.asked[1][1] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    assert share * size <= start <= size


@pytest.mark.parametrize("versioned", [True, False])
def test_a_file_that_changed_meanwhile_is_not_mixed(host: Host, store: Store, versioned: bool) -> None:
    """The server holds another version, or does not tell versions apart: the download starts anew."""
    dataset = jarvis(host)
    page = host.pages[PATH]
    new = page.content
    page.content, page.versioned = b"PK\x03\x04" + bytes(len(new)), versioned
    page.stop_after = 1000
    with pytest.raises(DataSetError, match="broke off"):
        store.get(dataset)
    page.content, page.stop_after = new, None
    complete(store, dataset)


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
    with pytest.raises(DataSetError, match="OFFLINE forbids to download it; unset the variable, or pass"):
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
    with pytest.raises(DataSetError, match=r"not installed; install it with 'pip install crystalformers\[data\]'"):
        store.get(jarvis(host))
    assert host.asked == []
    assert visible(store.root) == []


def test_what_a_killed_process_left_is_cleared(host: Host, store: Store) -> None:
    dataset = jarvis(host)
    left = store.folder(JARVIS) / ".convert-abc"
    left.mkdir(parents=True)
    (left / "rows.parquet").write_bytes(b"half")
    complete(store, dataset)


# Archives


def test_gzip_bomb(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    start = b'{"columns": ["structure", "x"], "data": ['
    page = gzip.compress(start + b" " * (60 << 20) + b"]}")
    dataset = play(host, "matbench_phonons", [page], 20)
    with pytest.raises(DataSetError, match="unpacks to more than"):
        store.get(dataset)
    assert visible(store.root) == []
    dataset = play(host, "matbench_phonons", [matbench_gzip("last phdos peak", 20)], 20)
    complete(store, dataset)


def test_a_gzip_file_with_a_wrong_checksum(host: Host, store: Store) -> None:
    content = bytearray(matbench_gzip("last phdos peak", 20))
    content[-8] ^= 1
    with pytest.raises(DataSetError, match=r"matbench_phonons\.json\.gz: the file is broken \(CRC.*download it again"):
        store.get(play(host, "matbench_phonons", [bytes(content)], 20))
    assert visible(store.root) == []


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
