"""Where data sets come from: published files, the Hugging Face hub, OPTIMADE APIs, the Materials Project."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from crystalformers.data.sets.download import fetch_file, on_disk, sha256_of, take_file
from crystalformers.data.sets.entry import RemoteFile, Request, SourceFile
from crystalformers.data.sets.formats import OPTIMADE_STRUCTURE
from crystalformers.data.sets.network import check_online, fetch_json
from crystalformers.errors import DataSetError
from crystalformers.extras import optional
from crystalformers.files import replacing

KEY_VARIABLE = "MP_API_KEY"
"""Environment variable with the key of the Materials Project."""

DOCUMENTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Files:
    """Files at fixed addresses, which never change.

    Attributes:
        files: in the order in which they are read.
    """

    files: tuple[RemoteFile, ...]
    pinned = True

    @property
    def host(self) -> str:
        """The host of the first address."""
        return urlsplit(self.files[0].addresses[0]).hostname or ""

    def fetch(self, request: Request) -> list[SourceFile]:
        """Download the files, or take the given ones."""
        if not request.given:
            return [fetch_file(file, request) for file in self.files]
        return [take_file(file, path, request) for file, path in _paired(self.files, request.given)]


def _paired(files: tuple[RemoteFile, ...], given: tuple[Path, ...]) -> list[tuple[RemoteFile, Path]]:
    """Each file with the given one that is meant: the only one, or that with its name or number in the name."""
    if len(files) == len(given) == 1:
        return [(files[0], given[0])]
    pairs = []
    for file in files:
        marks = [file.name, *(address.rsplit("/", 1)[-1] for address in file.addresses)]
        fitting = [path for path in given if any(mark in path.name for mark in marks)]
        if len(fitting) != 1 or len(given) != len(files):
            wanted = ", ".join(f"{file.name} ({file.addresses[0]})" for file in files)
            raise DataSetError(
                f"{len(given)} files were given and {len(fitting)} of them are named after {file.name}",
                remedy=f"give one file with --from for each of {wanted}, with its name or number in the file name",
            )
        pairs.append((file, fitting[0]))
    return pairs


@dataclass(frozen=True)
class GivenFile:
    """A file that has no address of its own; the user brings it.

    Attributes:
        name: what it is called here.
        form: as of `RemoteFile`.
        origin: where users get it or its parts, and in what form to give it, in a sentence.
    """

    name: str
    form: str
    origin: str
    host = "to be given with --from"
    pinned = False

    def fetch(self, request: Request) -> list[SourceFile]:
        """Take the given file; raises DataSetError if there is not exactly one."""
        if len(request.given) != 1:
            raise DataSetError("no address is known for this set", where=self.name, remedy=self.origin)
        return [take_file(RemoteFile(self.name, (), self.form), request.given[0], request)]


@dataclass(frozen=True)
class HubParquet:
    """The Parquet files of a folder in a repository of the Hugging Face hub, with the hashes that the hub states.

    Attributes:
        repository: `owner/name`.
        folder: in the repository.
        revision: branch, tag or commit.
    """

    repository: str
    folder: str
    revision: str = "main"
    pinned = False

    @property
    def host(self) -> str:
        """The hub and the repository."""
        return f"Hugging Face, {self.repository}"

    def fetch(self, request: Request) -> list[SourceFile]:
        """Ask the hub which files there are, and download those that are not here, or take the given ones."""
        if request.given:
            return [take_file(RemoteFile(path.name, (), "parquet"), path, request) for path in request.given]
        return [fetch_file(file, request) for file in self._listed(request)]

    def _listed(self, request: Request) -> list[RemoteFile]:
        check_online(self.repository)
        with optional("data", "a download", DataSetError, self.repository):
            from huggingface_hub import HfApi, RepoFile, hf_hub_url
        try:
            api = HfApi()
            commit = api.dataset_info(self.repository, revision=self.revision).sha
            tree = list(api.list_repo_tree(self.repository, self.folder, revision=commit, repo_type="dataset"))
        except Exception as error:  # a foreign client, which may raise anything
            raise _client_failed(self.repository, error) from error
        request.say(f"{self.repository}: revision {commit}")
        found = []
        for entry in sorted(tree, key=lambda item: item.path):
            if isinstance(entry, RepoFile) and entry.path.endswith(".parquet"):
                url = hf_hub_url(self.repository, entry.path, repo_type="dataset", revision=commit)
                sha256 = entry.lfs.sha256 if entry.lfs else None
                found.append(RemoteFile(Path(entry.path).name, (url,), "parquet", sha256, entry.size))
        if not found:
            raise DataSetError(f"there are no Parquet files in the folder {self.folder}", where=self.repository)
        return found


@dataclass(frozen=True)
class Optimade:
    """The structures of an OPTIMADE API, page by page; an interrupted download goes on at the page where it ended.

    Attributes:
        base_url: of the provider, with or without `/v1/structures`.
        fields: properties to ask for besides the structure.
        filter: in the filter language of OPTIMADE; empty for everything.
        limit: number of structures after which to stop, None for all.
        page_limit: structures asked for at once.
    """

    base_url: str
    fields: tuple[str, ...] = ()
    filter: str = ""
    limit: int | None = None
    page_limit: int = 100
    pinned = False

    @property
    def host(self) -> str:
        """The host of the API."""
        return f"OPTIMADE, {urlsplit(self.base_url).hostname or self.base_url}"

    @property
    def address(self) -> str:
        """Address of the first page."""
        base = self.base_url.split("?")[0].rstrip("/")
        endpoint = base if base.endswith("/structures") else f"{base.removesuffix('/v1')}/v1/structures"
        query = {
            "response_format": "json",
            "response_fields": ",".join((*OPTIMADE_STRUCTURE, *self.fields)),
            "page_limit": str(min(self.page_limit, self.limit or self.page_limit)),
            **({"filter": self.filter} if self.filter else {}),
        }
        return f"{endpoint}?{urlencode(query)}"

    def fetch(self, request: Request) -> list[SourceFile]:
        """Ask for page after page; each is a line of the file."""
        path, part = request.folder / "pages.jsonl", request.folder / ".pages.jsonl.part"
        if request.given:
            raise DataSetError("an OPTIMADE API has no file to be given", where=self.base_url)
        request.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            path.replace(part)  # it may be of another request
        with on_disk(part, lambda: part.unlink(missing_ok=True)), part.open("ab+") as file:
            self._complete(file, request)
        part.replace(path)
        return [SourceFile(path, sha256_of(path), self.address)]

    def _complete(self, file: IO[bytes], request: Request) -> None:
        """Append the pages that are missing, a line each."""
        address, count = self._resumed(file)
        asked = set()
        while address and (self.limit is None or count < self.limit):
            answer = fetch_json(address, request.say)
            if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
                raise DataSetError("the answer holds no list 'data'", where=address, remedy="check the address")
            data = answer["data"][: None if self.limit is None else self.limit - count]
            asked.add(address)
            link = (answer.get("links") or {}).get("next") or ""
            following = str(link.get("href") or "" if isinstance(link, Mapping) else link)
            if following in asked:
                raise DataSetError("its pages lead in a circle", where=address, remedy="tell the provider")
            address, count = following, count + len(data)
            page = {"first": self.address, "limit": self.limit, "next": address, "count": count, "data": data}
            file.write(json.dumps(page).encode() + b"\n")
            file.flush()
            request.report("pages.jsonl", count, self.limit or (answer.get("meta") or {}).get("data_returned"))

    def _resumed(self, file: IO[bytes]) -> tuple[str, int]:
        """Address of the page after the last one that is in the file, and structures so far.

        What comes after that page, torn or of another request, is cut off.
        """
        following, count, end = self.address, 0, 0
        file.seek(0)
        for line in file:
            page = json.loads(line) if line.endswith(b"\n") else {}
            if (page.get("first"), page.get("limit")) != (self.address, self.limit):
                break
            following, count, end = page["next"], page["count"], end + len(line)
        file.truncate(end)
        return following, count


@dataclass(frozen=True)
class MaterialsProject:
    """The current Materials Project through its own client, `mp-api`; needs a key.

    Attributes:
        fields: properties to ask for besides id and structure.
    """

    fields: tuple[str, ...]
    host = "Materials Project"
    pinned = False

    def fetch(self, request: Request) -> list[SourceFile]:
        """Ask for the ids, then for the documents, some at a time."""
        if request.given:
            raise DataSetError("its client has no file to be given", where=self.host)
        path = request.folder / "documents.jsonl"
        if path.is_file():
            return [SourceFile(path, sha256_of(path), self.host)]
        check_online(self.host)
        with optional("mp", "a download", DataSetError, self.host):
            from mp_api.client import MPRester
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise DataSetError(
                f"its client needs a key, and {KEY_VARIABLE} is not set",
                where=self.host,
                remedy="get one from your account at the Materials Project and put it into that variable",
            )
        request.folder.mkdir(parents=True, exist_ok=True)
        try:
            with MPRester(key) as client, on_disk(path), replacing(path) as part, part.open("wb") as file:
                self._write(client.materials.summary, file, partial(request.report, path.name))
        except DataSetError:
            raise
        except Exception as error:  # a foreign client, which may raise anything
            raise _client_failed(self.host, error) from error
        return [SourceFile(path, sha256_of(path), self.host)]

    def _write(self, summary: Any, file: IO[bytes], report: Callable[[int, int], None]) -> None:
        ids = [str(found.material_id) for found in summary.search(fields=["material_id"])]
        fields = ["material_id", "structure", *self.fields]
        for done in range(0, len(ids), DOCUMENTS_AT_ONCE):
            some = ids[done : done + DOCUMENTS_AT_ONCE]
            for document in summary.search(material_ids=some, fields=fields):
                values = {name: getattr(document, name, None) for name in self.fields}
                entry = {"material_id": str(document.material_id), "structure": document.structure.as_dict(), **values}
                file.write(json.dumps(entry).encode() + b"\n")
            report(done + len(some), len(ids))


def _client_failed(where: str, error: Exception) -> DataSetError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return DataSetError(f"its client failed ({reason})", where=where, remedy="try again later")
