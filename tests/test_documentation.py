"""The site: built without warnings, complete, closed in itself, and with answers near the home page."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[1]

QUESTIONS = {
    "How do I install it?": ("get-started.html", "install"),
    "How do I predict a CIF?": ("get-started.html", "predict"),
    "Which file formats are read?": ("tables.html", "structure-files"),
    "What do the columns of a prediction mean?": ("predict.html", "the-columns"),
    "How sure is a prediction?": ("uncertainty.html", "intervals"),
    "What does the flag mean?": ("uncertainty.html", "unlike-the-training-data"),
    "How accurate is the bundled model?": ("results.html", "the-bundled-model"),
    "How do I train on my own table?": ("train.html", None),
    "What must my table look like?": ("tables.html", None),
    "I have 300 values. What now?": ("tutorials/fine-tune.html", None),
    "Would more rows help?": ("tutorials/fine-tune.html", "would-more-rows-help"),
    "How do I cross-validate?": ("tutorials/cross-validation.html", "every-row-predicted-once"),
    "How do I continue an interrupted run?": ("train.html", "what-the-run-folder-holds"),
    "How do I get vectors of crystals?": ("predict.html", "vectors"),
    "How do I use it in scikit-learn?": ("scikit-learn.html", "a-regressor-that-is-trained"),
    "How do I see what the model looks at?": ("attention.html", "look-at-it"),
    "How do I export element vectors to CGCNN?": ("elements.html", "export-a-table"),
    "How do I train on JARVIS or Matbench?": ("data.html", None),
    "How do I reproduce the papers?": ("reproduce.html", "what-was-run-here"),
    "How do I use it in a notebook?": ("predict.html", "in-notebooks"),
    "How do I open the page in a browser?": ("serve.html", "the-page"),
    "How do I ask it from another program?": ("serve.html", "the-http-service"),
    "How do I find known crystals like mine?": ("search.html", None),
    "How do I screen a million structures?": ("screening.html", None),
    "How do I add a model of my own?": ("extend.html", "a-model"),
    "What are the arguments of load_model?": ("api/crystalformers.html", "crystalformers.load_model"),
}
"""Questions of newcomers, and the page and section that answer each."""


class Page(HTMLParser):
    """What a page links to, loads and can be linked at.

    Attributes:
        links: targets of links.
        loaded: addresses of scripts, styles, pictures.
        anchors: ids of its elements.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values and (name == "id" or tag == "a")}
        if tag == "a":
            self.links |= {values["href"]} if "href" in values else set()
        else:
            self.loaded |= {values[name] for name in ("src", "href", "srcset", "poster", "data") if name in values}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"the documentation is not checked: {package} is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.fixture(scope="module")
def documentation() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        pytest.importorskip("markdown", reason="the documentation is not checked: mkdocs is not installed")
        return importlib.import_module("documentation")


def test_the_api_is_filled_in(documentation: ModuleType) -> None:
    nav = ["index.md", {"Guides": [{"Predict": "predict.md"}]}, {"API": []}]
    (home, guides, api) = documentation.on_config({"nav": nav, "markdown_extensions": []})["nav"]
    assert (home, guides) == ("index.md", {"Guides": [{"Predict": "predict.md"}]})
    assert {"crystalformers.explain": "api/crystalformers.explain.md"} in api["API"]


def test_every_public_name_is_in_the_reference(site: Path, documentation: ModuleType) -> None:
    *_, content = (site / "objects.inv").read_bytes().split(b"\n", 4)
    listed = {line.split(" ")[0] for line in zlib.decompress(content).decode().splitlines()}
    packages = documentation.public_packages()
    assert {"crystalformers", "crystalformers.explain", "crystalformers.data.sets"} <= set(packages)
    names = [f"{package}.{name}" for package in packages for name in importlib.import_module(package).__all__]
    assert len(names) > 80
    assert sorted(set(names) - listed) == []


def test_examples_of_docstrings_are_blocks_of_code(site: Path) -> None:
    text = (site / "api" / "crystalformers.html").read_text(encoding="utf-8")
    assert "<blockquote>" not in text
    assert "doctest:" not in text
    assert '<code><span class="gp">' in text


def test_links_lead_to_pages_and_sections(site: Path, pages: dict[str, Page]) -> None:
    broken = []
    for name, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(unquote(link))
            if re.match(r"\w+:", address):
                continue
            target = os.path.normpath(Path(name).parent / address) if address else name
            target = "index.html" if target == "." else target
            if not (site / target).is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_pages_load_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    elsewhere = {f"{name}: {url}" for name, page in pages.items() for url in page.loaded if re.match(r"(\w+:)?//", url)}
    assert elsewhere == set()
    assert any("javascripts" in url for page in pages.values() for url in page.loaded), "scripts are not found"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_within_two_clicks(question: str, pages: dict[str, Page]) -> None:
    """The page is one click from home, by its text or the navigation, and the section is on the page's list."""
    page, section = QUESTIONS[question]
    assert page in {urldefrag(link)[0] for link in pages["index.html"].links}
    assert section is None or f"#{section}" in pages[page].links


def test_there_are_enough_questions() -> None:
    assert len(QUESTIONS) >= 20
