"""What MkDocs needs to know besides mkdocs.yml: pages from outside docs/, the pages of the API, and their links.

* Pages beside the code (`PAGES`) become pages of the site, and links to them are set right.
* A link to any other file of the checkout gets a copy of that file, in `files/`.
* The API has a page for the package and for each subpackage with an `__all__`, with every name in it, and for the
  modules in `MODULES`.
* The page of the command line is what `--help` prints.
"""

from __future__ import annotations

import os
import pkgutil
import re
from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

import crystalformers

ROOT = Path(__file__).parents[1]

PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
    "recipes/README.md": "recipes.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the site by their place in the checkout."""

SOURCE = {page: source for source, page in PAGES.items()}
ALSO_PUBLIC = ("data.sets",)
"""Public packages further down."""

MODULES = (
    "calculator",
    "errors",
    "elements.export",
    "elements.matgl",
    "elements.matminer",
    "elements.pipeline",
    "elements.similarity",
)
"""Public modules of which everything is listed."""


def public_packages() -> list[str]:
    """The package and its subpackages that say what is public."""
    names = [module.name for module in pkgutil.iter_modules(crystalformers.__path__) if module.ispkg]
    full = ["crystalformers", *(f"crystalformers.{name}" for name in sorted([*names, *ALSO_PUBLIC]))]
    return [name for name in full if getattr(import_module(name), "__all__", None)]


def api_page(package: str) -> str:
    """A package with all its public names."""
    module = import_module(package)
    head = f"# {package}\n\n::: {package}\n    options: {{members: false, show_root_heading: false}}\n"
    names = [f"::: {package}.{name}\n" for name in sorted(module.__all__)]
    return "\n".join([head, *names])


def module_page(module: str) -> str:
    """A module with everything in it."""
    return f"# {module}\n\n::: {module}\n    options: {{show_root_heading: false}}\n"


def api_pages() -> dict[str, str]:
    """The pages of the API by the name of their module."""
    modules = [f"crystalformers.{name}" for name in MODULES]
    pages = {name: api_page(name) for name in public_packages()} | {name: module_page(name) for name in modules}
    return dict(sorted(pages.items()))


def command_page() -> str:
    """All commands with their options."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from crystalformers.cli import app

    def help_of(words: tuple[str, ...], command: Any) -> list[str]:
        text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"}, prog_name="crystalformers").output
        parts = [
            f"{'#' * min(len(words) + 1, 3)} {' '.join(('crystalformers', *words))}\n\n```text\n{text.strip()}\n```\n"
        ]
        for name, inner in getattr(command, "commands", {}).items():
            parts += help_of((*words, name), inner)
        return parts

    return "\n".join(help_of((), get_command(app)))


@cache
def generated() -> dict[str, str]:
    """The pages that are written from the code, by their place."""
    return {f"api/{name}.md": text for name, text in api_pages().items()} | {"command-line.md": command_page()}


class Examples(Preprocessor):  # type: ignore[misc]
    """Lines of a docstring that begin with `>>>`, and what follows them, as a block of code."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines with fences."""
        fenced, inside = [], False
        for line in [*lines, ""]:
            if inside != (line.startswith(">>>") or (inside and bool(line.strip()))):
                inside = not inside
                fenced += ["", "```pycon"] if inside else ["```", ""]
            fenced.append(line.removesuffix("  # doctest: +SKIP"))
        return fenced


class ExamplesExtension(Extension):  # type: ignore[misc]
    """`Examples`, before blocks of code are looked for."""

    def extendMarkdown(self, md: Any) -> None:
        """Register it."""
        md.preprocessors.register(Examples(md), "examples", 100)


def on_config(config: Any) -> Any:
    """List the pages of the API."""
    config["markdown_extensions"].append(ExamplesExtension())
    api = [{name: f"api/{name}.md"} for name in api_pages()]

    def listed(entries: list[Any]) -> list[Any]:
        found = []
        for entry in entries:
            title, value = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
            if title == "API":
                found.append({title: api})
            elif isinstance(value, list):
                found.append({title: listed(value)})
            else:
                found.append(entry)
        return found

    config["nav"] = listed(config["nav"])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    texts = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()} | generated()
    for page, text in texts.items():
        if not (ROOT / "docs" / page).exists():  # `on_page_markdown` adds the text to a page that does
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Add what is written from the code, set links right that leave docs/, and offer the notebook of a tutorial."""
    here = page.file.src_uri
    if here in generated() and (ROOT / "docs" / here).exists():
        begin = markdown.partition("In the site this page goes on")[0].rstrip()
        return begin + generated()[here].partition("\n")[2]
    folder = PurePosixPath(SOURCE.get(here, f"docs/{here}")).parent

    def moved(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        target = os.path.normpath(folder / path)
        if target in PAGES or target.startswith("docs/"):
            place = PAGES.get(target) or target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            place = add_file(files, config, target)
        else:
            return match[0]
        return f"]({os.path.relpath(place, PurePosixPath(here).parent)}{anchor})"

    if here not in generated():
        markdown = re.sub(r"\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)", moved, markdown)
    notebook = (ROOT / "docs" / here).with_suffix(".ipynb")
    if notebook.exists():
        markdown = markdown.replace("\n\n", f"\n\n[As a notebook]({notebook.name}){{ .md-button download }}\n\n", 1)
    return markdown


def add_file(files: Any, config: Any, target: str) -> str:
    """Copy a file of the checkout into the site, once; its place. Markdown is copied as text, for it is no page."""
    from mkdocs.structure.files import File

    place = f"files/{target}" + (".txt" if target.endswith(".md") else "")
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return place
