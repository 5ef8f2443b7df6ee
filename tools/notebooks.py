"""Write the tutorials that are also notebooks: the Markdown page is the source, `PAGE.ipynb` lies beside it.

python tools/notebooks.py

Python blocks become cells; all other text is taken over as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import v4

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
PAGES = ("first-hour", "fine-tune")
FIRST_CELL = "# The paths below begin at the root of the checkout.\n%cd -q ../.."


def notebook(markdown: str) -> str:
    """The notebook of a page as JSON, without outputs."""
    parts = re.split(r"^```python\n(.*?)^```\n", markdown, flags=re.DOTALL | re.MULTILINE)
    cells = [v4.new_code_cell(FIRST_CELL)]
    for k, part in enumerate(parts):
        if part.strip():
            cells.append(v4.new_code_cell(part.strip()) if k % 2 else v4.new_markdown_cell(part.strip()))
    for k, cell in enumerate(cells):
        cell["id"] = f"cell-{k}"  # random by default
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.writes(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})) + "\n"


def main() -> None:
    """Write the notebooks."""
    for name in PAGES:
        text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        (TUTORIALS / f"{name}.ipynb").write_text(notebook(text), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
