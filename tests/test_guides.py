"""The code of the guides and tutorials, run as it is printed."""

from __future__ import annotations

import re
import shlex
from glob import glob
from pathlib import Path

import pytest
from command import invoke

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = DOCS / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
TUTORIAL_PAGES = [page for page in sorted(TUTORIALS.glob("*.md")) if page.with_suffix(".ipynb") not in NOTEBOOKS]
TESTED_ELSEWHERE = {"data"}
"""In tests/data/sets, with its server."""
OTHER_LIBRARIES = re.compile(r"^(?:import|from) (?:jarvis|crystalformers\.elements\.mat(?:gl|miner))", re.MULTILINE)
"""Blocks that need these are tested in tests/elements/test_element_consumers.py, where they are installed."""
GUIDES = [
    page
    for page in sorted(DOCS.glob("*.md"))
    if page.stem not in TESTED_ELSEWHERE and "```python" in page.read_text(encoding="utf-8")
]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the examples where the pages expect them."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run_commands(text: str) -> None:
    """Run each line as a command line, which must succeed; `*` stands for files as in a shell."""
    for line in text.splitlines():
        command, *words = shlex.split(line)
        assert command == "crystalformers", line
        arguments = [name for word in words for name in (sorted(glob(word)) if "*" in word else [word])]
        result = invoke(*arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_guides_are_found() -> None:
    assert {"predict", "train", "scikit-learn"} <= {page.stem for page in GUIDES}
    assert len(TUTORIAL_PAGES) + len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_python_of_a_guide_runs(page: Path, checkout: Path) -> None:
    blocks = [text for language, text in blocks_of(page) if language == "python" and not OTHER_LIBRARIES.search(text)]
    assert blocks
    exec("\n".join(blocks), {})


@pytest.mark.parametrize("page", TUTORIAL_PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page: Path, checkout: Path) -> None:
    blocks, names = blocks_of(page), {"__name__": "tutorial"}
    assert {language for language, _ in blocks} == {"python", "bash"}
    for language, text in blocks:
        if language == "bash":
            run_commands(text)
        else:
            exec(compile(text, str(page), "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_made_from_its_page_and_runs(path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from notebooks import notebook

    page = path.with_suffix(".md")
    text = path.read_text(encoding="utf-8")
    assert text == notebook(page.read_text(encoding="utf-8")), "run python tools/notebooks.py"
    assert not any(cell.get("outputs") for cell in nbformat.reads(text, as_version=4).cells)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CRYSTALFORMERS_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it
    (folder := checkout / "docs" / "tutorials").mkdir(parents=True)
    client = nbclient.NotebookClient(
        nbformat.reads(text, as_version=4), timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises what a cell raises
    printed = [output for cell in client.nb.cells for output in cell.get("outputs", ())]
    assert not [output for output in printed if output.get("name") == "stderr" and "Traceback" in output["text"]]
    assert any("text/html" in output.get("data", {}) for output in printed), "tables are shown as tables"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_commands_of_a_notebook_run(path: Path, checkout: Path) -> None:
    commands = [text for language, text in blocks_of(path.with_suffix(".md")) if language == "bash"]
    assert commands
    for text in commands:
        run_commands(text)
