"""What can go wrong on the way: no broken file stays, the message says what to do, and the next try works."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace

import pytest
import requests
from host import Host, Page, visible
from miniatures import HTML, JARVIS, PATH, complete, edited, jarvis, matbench_gzip, play, zipped

from crystalformers import open_table
from crystalformers.data.sets import DataSet, Store, archives, network
from crystalformers.data.sets.entry import Request
from crystalformers.errors import DataSetError

BY_OTHER_MEANS = "pass it with --from FILE"


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
